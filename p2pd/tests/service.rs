//! `p2pd service` in a home of its own, without a systemd that runs.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Exit code and what is said.
fn service(home: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.arg("service").args(args).current_dir(home).env("HOME", home).env_remove("XDG_CONFIG_HOME");
    let out = command.env("XDG_RUNTIME_DIR", home).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_unit_is_written_verified_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let unit = home.join(".config/systemd/user/p2pd-daemon.service");
    let install = ["install", "--", "daemon", "--config", "my $servers %h.toml", "--token-file", "a\"b"];
    let (code, said) = service(home, &[&["install", "--dry-run"], &install[1..]].concat());
    assert!(code == Some(0) && said.contains("NoNewPrivileges=yes\n") && !unit.exists(), "{said}");
    let (code, said) = service(home, &install);
    assert_eq!(
        (code, said.contains("once it does: systemctl --user enable --now p2pd-daemon.service")),
        (Some(0), true),
        "{said}"
    );
    let text = fs::read_to_string(&unit).unwrap();
    let exec = format!(
        "ExecStart=\"{}\" \"daemon\" \"--config\" \"my $$servers %%h.toml\" \"--token-file\" \"a\\\"b\"\n",
        env!("CARGO_BIN_EXE_p2pd")
    );
    assert!(
        text.contains(&exec) && text.contains(&format!("WorkingDirectory={}\n", home.display())),
        "{text}"
    );
    assert_eq!(fs::metadata(&unit).unwrap().permissions().mode() & 0o777, 0o600);
    // Its manual is not installed here.
    let bare = home.join("p2pd-daemon.service");
    fs::write(&bare, text.replace("Documentation=man:p2pd-daemon(1)\n", "")).unwrap();
    match Command::new("systemd-analyze")
        .args(["verify", "--user"])
        .arg(&bare)
        .env("XDG_RUNTIME_DIR", home)
        .output()
    {
        Ok(out) => {
            assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr))
        }
        Err(why) => println!("SKIPPED a_unit_is_written_verified_and_removed: systemd-analyze: {why}"),
    }
    let (code, said) = service(home, &["status"]);
    assert_eq!((code, said.starts_with("p2pd-daemon.service installed")), (Some(1), true), "{said}");
    let (code, said) = service(home, &["remove", "daemon"]);
    assert_eq!((code, unit.exists()), (Some(0), false), "{said}");
    let (code, said) = service(home, &["remove", "daemon"]);
    assert_eq!((code, said.contains("there is no such unit")), (Some(1), true), "{said}");
}

#[test]
fn units_of_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(".config/systemd/user");
    fs::create_dir_all(&folder).unwrap();
    let unit = folder.join("p2pd-mine.service");
    fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    fs::set_permissions(&unit, PermissionsExt::from_mode(0o600)).unwrap();
    for args in [&["install", "--name", "mine", "--", "daemon"][..], &["remove", "mine"]] {
        let (code, said) = service(dir.path(), args);
        assert_eq!((code, said.contains("was not made by p2pd")), (Some(1), true), "{said}");
    }
    assert_eq!(service(dir.path(), &["status"]), (Some(0), String::new()));
    for args in [&["install", "--", "connect", "x"][..], &["install"], &["remove", "../x"]] {
        assert_eq!(service(dir.path(), args).0, Some(2), "{args:?}");
    }
    assert_eq!(fs::read_to_string(&unit).unwrap(), "[Service]\nExecStart=/bin/true\n");
}
