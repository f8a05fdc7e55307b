//! What the operator types and reads.

use clap::{CommandFactory, Parser};

use super::ask::{giveback_forecast, in_part, volume_table};
use super::failure::Failure;
use super::{Cli, Size, VolumeWish};
use crate::admin::{ClientError, Protection, Provisioning, Response, Staying, Veto, VetoWeight, VolumeStatus};
use crate::timeline::Style;

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_and_every_argument_says_what_it_is() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "`{}` has no help", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "`{}` of `{}` has no help", argument.get_id(), command.get_name());
        }
        command.get_subcommands().for_each(check);
    }
    Cli::command().get_subcommands().for_each(check);
}

#[test]
fn the_commands_of_the_documents_are_understood() {
    for line in [
        "demo",
        "demo --json result.json",
        "shelf --folder /srv/shelf --disk l0:16MiB --disk d0:1GiB",
        "pair init --pair p.toml --volume vm:1GiB:fast --overwrite",
        "node a --pair p.toml",
        "status",
        "status --json",
        "status --watch --node b",
        "takeover",
        "takeover --planned --node b",
        "takeover --force",
        "takeover --pool bulk --pool fast --override-vetoes",
        "takeover --dry-run",
        "giveback --pool fast",
        "giveback --dry-run",
        "giveback --override-vetoes",
        "volume create vm 64MiB --pool fast",
        "volume list --json",
        "volume delete vm",
        "timeline --json --newest 3",
        "bench 10.0.0.10:3260 iqn.2026-01.org.example:vol1",
        "bench 10.0.0.10:3260 iqn.2026-01.org.example:vol1 --lun 2 --bytes 1MiB --order sequential --seconds 5 --json",
        "bench 10.0.0.10:3260 iqn.2026-01.org.example:vol1 --read-percent 70 --overwrite --connections 4 --depth 32",
    ] {
        if let Err(error) = Cli::try_parse_from(std::iter::once("understudy").chain(line.split(' '))) {
            panic!("`understudy {line}`: {error}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_refused_with_the_reason() {
    for (line, reason) in [
        ("node c", "a pair has the nodes `a` and `b`"),
        ("takeover --planned --force", "cannot be used with"),
        ("takeover --force --pool fast", "cannot be used with"),
        ("takeover --force --dry-run", "cannot be used with"),
        ("bench 10.0.0.10:3260 iqn.2026-01.org.example:vol1 --read-percent 101", "is not in 0..=100"),
        ("volume create vm 64 --pool", "a value is required"),
        ("volume create vm large --pool fast", "write it as 512MiB"),
        ("pair init --volume vm:1GiB", "write it as name:size:pool"),
        ("pair init --volume VM:1GiB:fast", "can not be the name of a volume"),
        ("shelf --folder x", "--disk"),
    ] {
        let error = Cli::try_parse_from(std::iter::once("understudy").chain(line.split(' '))).expect_err(line);
        assert!(error.to_string().contains(reason), "`understudy {line}`: {error}");
        assert_eq!(error.exit_code(), 2, "the documented exit status");
    }
}

#[test]
fn sizes_are_read_in_binary_units() {
    let read = |text: &str| text.parse::<Size>().map(|size| size.0).ok();
    assert_eq!(read("512"), Some(512));
    assert_eq!(read("64KiB"), Some(64 << 10));
    assert_eq!(read("64 MiB"), Some(64 << 20));
    assert_eq!(read("1.5GiB"), Some(3 << 29));
    assert_eq!(read("2TiB"), Some(2 << 40));
    for wrong in
        ["", "MiB", "1MB", "-1MiB", "1.5", "1.2345678GiB", "0", "0MiB", "99999999TiB", "0x10", "1 GiB GiB", "é"]
    {
        assert_eq!(read(wrong), None, "{wrong}");
    }
}

#[test]
fn sizes_are_shown_in_the_unit_that_fits() {
    let shown = |bytes: u64| Size(bytes).to_string();
    assert_eq!(shown(512), "512 B");
    assert_eq!(shown(64 << 20), "64 MiB");
    assert_eq!(shown(3 << 29), "1.5 GiB");
    assert_eq!(shown(1 << 40), "1 TiB");
    assert_eq!(shown(0), "0 B");
    assert_eq!(shown(u64::MAX), "16777215.9 TiB");
}

#[test]
fn a_volume_wish_has_name_size_and_pool() {
    let wish: VolumeWish = "vm-1:1.5GiB:fast".parse().expect("a wish");
    assert_eq!((wish.name.as_str(), wish.size.0, wish.pool.as_str()), ("vm-1", 3 << 29, "fast"));
    assert_eq!(wish.provisioning, Provisioning::Thick);
    let thin: VolumeWish = "vm-1:1.5GiB:fast:thin".parse().expect("a wish");
    assert_eq!(thin, VolumeWish { provisioning: Provisioning::Thin, ..wish });
    assert!("vm-1:1.5GiB:fast:fat".parse::<VolumeWish>().is_err());
}

#[test]
fn a_refusal_lists_the_vetoes_and_what_to_do() {
    let vetoes = vec![
        Veto {
            weight: VetoWeight::Soft,
            reason: "a mirror of pool fast is being resynced".to_owned(),
            remedy: "it ends by itself".to_owned(),
        },
        Veto {
            weight: VetoWeight::Hard,
            reason: "the nodes do not find the same disks".to_owned(),
            remedy: String::new(),
        },
    ];
    let answer =
        Response::Refused { reason: "the giveback was vetoed".to_owned(), vetoes, advice: "see status".to_owned() };
    let failure = Failure::from_answer(answer);
    assert_eq!(failure.status(), 5);
    assert_eq!(
        failure.render(Style::Plain),
        "understudy: the giveback was vetoed\n  \
         - a mirror of pool fast is being resynced (soft veto, can be overridden)\n    it ends by itself\n  \
         - the nodes do not find the same disks (hard veto)\n  \
         see status\n"
    );
}

#[test]
fn exit_statuses_are_those_of_the_help_text() {
    let no_node = ClientError::NoNode { path: "a.sock".into(), source: std::io::ErrorKind::NotFound.into() };
    assert_eq!(Failure::from(no_node).status(), 4);
    assert_eq!(Failure::new("x", "").status(), 1);
    let file = std::path::Path::new("/nonexistent/pair.toml");
    assert_eq!(Failure::from(crate::config::Config::load(file).expect_err("no such file")).status(), 3);
    let help = Cli::command().render_long_help().to_string();
    for line in
        ["0  done", "1  it could not", "2  the command line", "3  the pair's file", "4  no node", "5  the node refused"]
    {
        assert!(help.contains(line), "{line}");
    }
}

#[test]
fn a_dry_run_says_vetoes_and_the_expected_pause() {
    let veto = Veto { weight: VetoWeight::Soft, reason: "a resync is running".to_owned(), remedy: String::new() };
    let text = giveback_forecast((&[], &[]), std::slice::from_ref(&veto), Some(2_350));
    assert!(text.contains("would be vetoed now:\n  - a resync is running"), "{text}");
    assert!(text.contains("a pause of about 2.3 ms") && text.contains("nothing was changed"), "{text}");
    assert!(giveback_forecast((&[], &[]), &[], None).starts_with("nothing speaks against a giveback now\n"));
    let staying = [Staying { pool: "bulk".to_owned(), vetoes: vec![veto] }];
    let text = giveback_forecast((&["fast".to_owned()], &staying), &[], None);
    let parts = ["these pools would move: fast\n", "these would stay where they are:\nbulk:\n  - a resync is running"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    let text = in_part("a serves its pools", &staying);
    assert!(text.starts_with("a serves its pools\nbut these stay") && text.contains("bulk:\n  - a resync"), "{text}");
}

#[test]
fn the_volume_list_gives_addresses_a_client_can_paste() {
    let volume = VolumeStatus {
        name: "vm".to_owned(),
        pool: "fast".to_owned(),
        bytes: 1 << 30,
        used_bytes: 1 << 30,
        provisioning: Provisioning::Thick,
        protection: Protection::Writable,
        lun: 3,
        target: "iqn.2026-01.com.example:a".to_owned(),
        portals: vec!["10.0.0.1:3260".parse().expect("an address")],
        serial: String::new(),
        initiators: None,
    };
    let masked = |initiators: &[&str]| {
        let initiators = Some(initiators.iter().map(|name| (*name).to_owned()).collect());
        volume_table(&[VolumeStatus { initiators, ..volume.clone() }])
    };
    assert!(masked(&["iqn.c:x", "iqn.c:y"]).ends_with("/3  seen by iqn.c:x, iqn.c:y\n"));
    assert!(masked(&[]).ends_with("seen by nobody\n"));
    let thin = VolumeStatus {
        used_bytes: 3 << 20,
        provisioning: Provisioning::Thin,
        protection: Protection::WriteProtected,
        ..volume.clone()
    };
    assert!(volume_table(&[thin]).ends_with("/3  thin, 3 MiB used  write-protected\n"));
    assert!(volume_table(&[volume]).contains("iscsi://10.0.0.1:3260/iqn.2026-01.com.example:a/3\n"));
    assert!(volume_table(&[]).contains("understudy volume create"));
}
