//! Lines of the admin socket, as a node reads requests and a client reads answers.
//!
//! Properties: what is read is written to a line that reads the same; a line is one line.

use understudy::admin::{Line, Protection, Provisioning, Request, Response};

/// Reads the bytes as a request and as an answer.
pub fn run(bytes: &[u8]) {
    if let Ok(line) = serde_json::from_slice::<Line<Request>>(bytes) {
        let again = serde_json::to_string(&line).expect("a request is written");
        assert!(!again.contains('\n'));
        assert_eq!(serde_json::from_str::<Line<Request>>(&again).expect("what was written"), line);
    }
    if let Ok(line) = serde_json::from_slice::<Line<Response>>(bytes) {
        let again = serde_json::to_string(&line).expect("an answer is written");
        assert!(!again.contains('\n'));
        assert!(serde_json::from_str::<Line<Response>>(&again).is_ok());
    }
}

/// Requests of several kinds and an answer.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        Request::Status,
        Request::VolumeCreate {
            pool: "fast".into(),
            name: "v".into(),
            bytes: 1 << 30,
            provisioning: Provisioning::Thin,
        },
        Request::VolumeProtect { name: "v".into(), protection: Protection::WriteProtected },
        Request::Timeline { newest: 7 },
    ];
    let mut seeds: Vec<Vec<u8>> =
        requests.into_iter().map(|request| serde_json::to_vec(&Line::new(request)).expect("a request is written")).collect();
    let failed = Response::Failed { reason: "no".into(), advice: "none".into() };
    seeds.push(serde_json::to_vec(&Line::new(failed)).expect("an answer is written"));
    seeds
}
