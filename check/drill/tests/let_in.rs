//! Who is let in: programs of other people (libiscsi's, QEMU's) with the right secret, with a wrong one and with none, one way and mutual.
//!
//! What they offer is MD5 and nothing else, so that this also is the test of what such clients are told where MD5 is not allowed.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::ensure;
use understudy::config::NodeName;
use understudy::harness::{Plan, volume_name};
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play, tools};
use understudy_load::LunAddress;

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Seconds any one run of a tool may take.
const TOOL_SECONDS: u32 = 30;

const WEB: &str = "iqn.2026-01.org.example:web";
const SECRET: &str = "9f3c54d0b7a8e621";
const OWN_SECRET: &str = "27d1e60b93f8a4c5";

/// `web` may use the volumes of node a and has to prove itself; `plain` may use those of node b and has not.
const INITIATORS: &str = r#"
[[initiator]]
name = "iqn.2026-01.org.example:web"
nodes = ["a"]
user = "web1"
secret = "9f3c54d0b7a8e621"
own_user = "office"
own_secret = "27d1e60b93f8a4c5"

[[initiator]]
name = "iqn.2026-01.org.example:plain"
nodes = ["b"]
"#;

fn guarded(folder: &Path, access: &str) -> anyhow::Result<(Stage, LunAddress)> {
    let usual = plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder);
    let more = format!("{}{access}{INITIATORS}", usual.more);
    let stage = Stage::set_up(Plan { more, ..usual })?;
    let address = stage.address_of(&volume_name(NodeName::A, 0), NodeName::A)?;
    Ok((stage, address))
}

/// One run of a client of other people.
#[derive(Clone, Copy)]
struct Client<'c> {
    initiator: &'c str,
    /// User and secret.
    proof: Option<(&'c str, &'c str)>,
    /// User and secret that the pair has to prove.
    demand: Option<(&'c str, &'c str)>,
}

impl Client<'_> {
    fn run(self, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let file = tools::find(program).expect("it was looked for");
        let mut command = tools::bounded(&file, TOOL_SECONDS)?;
        command.args(["-i", self.initiator]).args(arguments);
        for (pair, user, secret) in [
            (self.proof, "LIBISCSI_CHAP_USERNAME", "LIBISCSI_CHAP_PASSWORD"),
            (self.demand, "LIBISCSI_CHAP_TARGET_USERNAME", "LIBISCSI_CHAP_TARGET_PASSWORD"),
        ] {
            if let Some(known) = pair {
                command.env(user, known.0).env(secret, known.1);
            }
        }
        Ok(command.output()?)
    }

    /// A discovery, and what it says.
    fn discover(self, address: &LunAddress) -> anyhow::Result<(bool, String)> {
        told(self.run("iscsi-ls", &[&format!("iscsi://{}", address.portal)])?)
    }

    /// A suite of the conformance tests on the volume.
    fn use_volume(self, address: &LunAddress) -> anyhow::Result<(bool, String)> {
        let url = format!("iscsi://{}/{}/{}", address.portal, address.target, address.lun);
        let (ended_well, text) = told(self.run("iscsi-test-cu", &["--dataloss", "--test", "SCSI.Read10", &url])?)?;
        Ok((ended_well && text.contains("Run Summary") && !text.contains("FAILED"), text))
    }

    fn both(self, address: &LunAddress) -> anyhow::Result<[(bool, String); 2]> {
        Ok([self.discover(address)?, self.use_volume(address)?])
    }
}

fn told(output: Output) -> anyhow::Result<(bool, String)> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

fn node_log(stage: &Stage, node: NodeName) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(stage.pair.folder().join(format!("node-{node}.log")))?)
}

fn demand_no_secret_in_logs(stage: &Stage) -> anyhow::Result<()> {
    for node in NodeName::BOTH {
        let log = node_log(stage, node)?;
        ensure!(!log.contains(SECRET) && !log.contains(OWN_SECRET), "a secret stands in the log of node {node}");
    }
    Ok(())
}

const RIGHT: Client<'_> = Client { initiator: WEB, proof: Some(("web1", SECRET)), demand: None };

#[test]
fn other_peoples_clients_are_let_in_with_the_right_secret_and_refused_without() {
    if !tools::present(&["iscsi-ls", "iscsi-test-cu", "timeout"], "libiscsi-bin coreutils") {
        return;
    }
    play(LIMIT, |folder| {
        let (mut stage, volume) = guarded(folder, "[access]\nalgorithms = [\"sha3-256\", \"md5\"]\n")?;
        let mutual = Client { demand: Some(("office", OWN_SECRET)), ..RIGHT };
        for client in [RIGHT, mutual] {
            for (good, text) in client.both(&volume)? {
                ensure!(good, "{text}");
            }
            let (_, shown) = client.discover(&volume)?;
            ensure!(shown.contains(&volume.target), "{shown}");
        }
        for (client, word) in [
            (Client { proof: Some(("web1", "9f3c54d0b7a8e622")), ..RIGHT }, "Authentication failure"),
            (Client { proof: Some(("web2", SECRET)), ..RIGHT }, "Authentication failure"),
            (Client { proof: None, ..RIGHT }, "Authentication failure"),
            (Client { initiator: "iqn.2026-01.org.example:stranger", ..RIGHT }, "Authorization failure"),
            (
                Client { initiator: "iqn.2026-01.org.example:stranger", proof: None, demand: None },
                "Authorization failure",
            ),
            // Its own refusal: what the pair proves is not what it demands.
            (Client { demand: Some(("office", SECRET)), ..RIGHT }, "Authentication failed"),
        ] {
            for (good, text) in client.both(&volume)? {
                ensure!(!good && text.contains(word), "expected {word}: {text}");
            }
        }
        // It may log in, but not here, and this target is not shown to it.
        let plain = Client { initiator: "iqn.2026-01.org.example:plain", proof: None, demand: None };
        let (good, text) = plain.use_volume(&volume)?;
        ensure!(!good && text.contains("Authorization failure"), "{text}");
        let (_, shown) = plain.discover(&volume)?;
        ensure!(!shown.contains(&volume.target), "{shown}");

        // The partner knows the same clients.
        stage.lose(NodeName::A)?;
        for (good, text) in mutual.both(&volume)? {
            ensure!(good, "{text}");
        }
        let (good, text) = Client { proof: None, ..RIGHT }.use_volume(&volume)?;
        ensure!(!good && text.contains("Authentication failure"), "{text}");
        demand_no_secret_in_logs(&stage)
    });
}

#[test]
fn where_md5_is_not_allowed_the_log_says_so_to_whoever_has_a_client_with_nothing_else() {
    if !tools::present(&["iscsi-ls", "iscsi-test-cu", "timeout"], "libiscsi-bin coreutils") {
        return;
    }
    play(LIMIT, |folder| {
        let (stage, volume) = guarded(folder, "")?;
        for (good, text) in RIGHT.both(&volume)? {
            ensure!(!good && text.contains("Authentication failure"), "{text}");
        }
        let log = node_log(&stage, NodeName::A)?;
        ensure!(log.contains("offers only MD5, and allowed are SHA3-256, SHA-256, SHA1"), "{log}");
        demand_no_secret_in_logs(&stage)
    });
}

#[test]
fn qemu_proves_who_it_is_and_reads_back_what_it_wrote() {
    if !tools::present(&["qemu-img", "timeout"], "qemu-utils qemu-block-extra coreutils") {
        return;
    }
    play(LIMIT, |folder| {
        let image = folder.join("image.raw");
        std::fs::write(
            &image,
            (0..4 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>(),
        )?;
        let (stage, volume) = guarded(folder, "[access]\nalgorithms = [\"md5\"]\n")?;
        let image = image.display().to_string();
        let drive = format!(
            "driver=raw,size=4194304,file.driver=iscsi,file.transport=tcp,file.portal={},file.target={},file.lun={},\
             file.initiator-name={WEB},file.user=web1,file.password-secret=proof",
            volume.portal, volume.target, volume.lun
        );
        let secret = |secret: &str| format!("secret,id=proof,data={secret}");
        let copy = |known: &str| {
            let secret = secret(known);
            let arguments = ["convert", "--object", &secret, "-n", "-f", "raw", "--target-image-opts", &image, &drive];
            tools::run("qemu-img", TOOL_SECONDS, &arguments)
        };
        let (good, text) = told(copy("9f3c54d0b7a8e622")?)?;
        ensure!(!good && text.contains("Authentication failure"), "{text}");
        let (good, text) = told(copy(SECRET)?)?;
        ensure!(good, "{text}");
        let (secret, file) = (secret(SECRET), format!("driver=raw,file.driver=file,file.filename={image}"));
        let compare = ["compare", "--object", &secret, "--image-opts", &file, &drive];
        tools::succeed("qemu-img", TOOL_SECONDS, &compare)?;
        demand_no_secret_in_logs(&stage)
    });
}
