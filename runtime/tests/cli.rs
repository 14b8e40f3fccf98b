//! The command line as a user meets it: help, settings, errors and exit codes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const ROAM: &str = env!("CARGO_BIN_EXE_roam");

/// An empty directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("roam-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `roam` in that directory, with nothing of the user's around it.
fn roam(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(ROAM);
    command.current_dir(dir).args(arguments).env_clear().stdin(Stdio::null());
    command.env("HOME", dir).env("ROAM_LAB_DIR", dir.join("labs")).env("ROAM_RUN_DIR", dir.join("run"));
    command
}

fn output(dir: &Path, arguments: &[&str]) -> Output {
    roam(dir, arguments).output().unwrap()
}

fn failed(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = output(dir, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

fn succeeded(dir: &Path, arguments: &[&str]) -> String {
    let output = output(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const COMMANDS: [&str; 24] = [
    "cert",
    "checkpoint",
    "completions",
    "demo",
    "deploy",
    "front",
    "host",
    "inspect",
    "lab",
    "load",
    "logs",
    "man",
    "migrate",
    "migrations",
    "modules",
    "ps",
    "restore",
    "rm",
    "route",
    "run",
    "sdn",
    "start",
    "stats",
    "stop",
];

#[test]
fn each_command_says_its_exit_codes() {
    let dir = Dir::new("help");
    let help = succeeded(&dir.0, &["--help"]);
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command} ")), "{command} is not listed");
        let help = succeeded(&dir.0, &[command, "--help"]).to_lowercase();
        assert!(help.contains("exit code"), "roam {command} --help names no exit codes");
    }
    for sub in ["up", "down", "status", "exec"] {
        assert!(succeeded(&dir.0, &["lab", sub, "--help"]).contains("Exit codes"), "lab {sub}");
    }
    for sub in ["ls", "show", "move", "clean", "claim", "release", "hosts", "leave", "watch"] {
        assert!(succeeded(&dir.0, &["route", sub, "--help"]).contains("Exit codes"), "route {sub}");
    }
    for sub in ["ls", "add", "rm"] {
        assert!(succeeded(&dir.0, &["front", sub, "--help"]).contains("Exit codes"), "front {sub}");
    }
    assert!(!help.contains("\n  worker"), "`roam worker` is not for people");
}

#[test]
fn completions_and_manual_pages_cover_all_commands() {
    let dir = Dir::new("pages");
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeded(&dir.0, &["completions", shell]);
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let pages: Vec<PathBuf> = serde_json::from_str(&succeeded(&dir.0, &["man", "man", "--json"])).unwrap();
    for name in COMMANDS.iter().map(|name| format!("roam-{name}.1")).chain(["roam.1".into(), "roam-lab-up.1".into()]) {
        assert!(pages.contains(&Path::new("man").join(&name)), "{name} is not among {pages:?}");
        let page = fs::read_to_string(dir.0.join("man").join(&name)).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains("roam"), "{name}");
    }
    assert!(!dir.0.join("man/roam-worker.1").exists());
}

#[test]
fn flags_go_before_environment_and_that_before_the_file() {
    let dir = Dir::new("precedence");
    let file =
        dir.write("config.toml", "default-host = 'from-file'\n[hosts.from-file]\nurl = 'unix:/nowhere/file.sock'\n");
    let asked = |flag: Option<&str>, environment: Option<&str>| {
        let mut command = roam(&dir.0, &["inspect", "kv", "--config"]);
        command.arg(&file).args(flag.into_iter().flat_map(|url| ["--host", url]));
        command.envs(environment.map(|url| ("ROAM_HOST", url)));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        String::from_utf8(output.stderr).unwrap()
    };
    let (flag, environment) = (Some("unix:/nowhere/flag.sock"), Some("unix:/nowhere/environment.sock"));
    assert!(asked(flag, environment).contains("flag.sock"));
    assert!(asked(None, environment).contains("environment.sock"));
    assert!(asked(None, None).contains("file.sock"));
}

#[test]
fn the_file_in_the_home_is_found_and_a_named_one_must_be_there() {
    let dir = Dir::new("places");
    fs::create_dir_all(dir.0.join(".config/roam")).unwrap();
    dir.write(".config/roam/config.toml", "log = '=='");
    assert!(failed(&dir.0, &["ps"], 2).contains("=="));
    let error = failed(&dir.0, &["ps", "--config", "missing.toml"], 1);
    assert!(error.contains("missing.toml"), "{error}");
}

#[test]
fn errors_in_files_say_where() {
    let dir = Dir::new("where");
    dir.write("config.toml", "\n[host]\nnam = 'a'\n");
    let error = failed(&dir.0, &["ps", "--config", "config.toml"], 2);
    assert!(error.contains("line 3, column 1") && error.contains("nam"), "{error}");
    dir.write("roam.toml", "[[guest]]\nmodule = 'kv.wasm'\nmemroy = '1MiB'\n");
    for arguments in [&["deploy"][..], &["deploy", "--file", "roam.toml"]] {
        let error = failed(&dir.0, arguments, 2);
        assert!(error.contains("line 3, column 1") && error.contains("memroy"), "{error}");
    }
}

#[test]
fn errors_say_what_to_do() {
    let dir = Dir::new("advice");
    assert!(failed(&dir.0, &["deploy"], 2).contains("roam.toml"));
    assert!(failed(&dir.0, &["ps"], 2).contains("roam lab up"));
    assert!(failed(&dir.0, &["ps", "--host", "host-z"], 4).contains("no host `host-z`"));
    assert!(failed(&dir.0, &["ps", "--host", "https://a"], 2).contains("--tls-dir"));
    assert!(failed(&dir.0, &["ps", "--host", "http://a:1"], 2).contains("https://"));
    assert!(failed(&dir.0, &["host", "--name", "a", "--bridge", "a-bridge-too-long"], 2).contains("15 bytes"));
    dir.write("empty.wasm", "");
    let url = "unix:/nowhere/api.sock";
    let error = failed(&dir.0, &["deploy", "empty.wasm", "--memory", "1KiB", "--host", url], 2);
    assert!(error.contains("--memory is 1 KiB") && error.contains("64 KiB"), "{error}");
    assert!(failed(&dir.0, &["ps", "--host", "unix:/nowhere/api.sock"], 3).contains("roam host"));
    assert!(failed(&dir.0, &["lab", "status", "--name", "none"], 4).contains("roam lab up"));
    assert!(failed(&dir.0, &["lab", "exec", "--name", "none", "client", "true"], 4).contains("roam lab up"));
    assert!(failed(&dir.0, &["stop", "No Name"], 2).contains("No Name"));
    assert!(failed(&dir.0, &["stats", "--interval", "1ms"], 2).contains("100ms"));
    let missing = failed(&dir.0, &["deploy", "kv.wasm", "--host", "unix:/nowhere/api.sock"], 1);
    assert!(missing.contains("kv.wasm"), "{missing}");
    for (flag, value) in [("--memory", "1parsec"), ("--ip", "10.0.0.1"), ("--mac", "01:00:00:00:00:00"), ("--env", "A")]
    {
        let error = failed(&dir.0, &["deploy", "kv.wasm", flag, value], 2);
        assert!(error.contains(flag) && error.contains(value), "{error}");
    }
}

#[test]
fn a_controller_is_found_by_flag_environment_file_and_place() {
    let dir = Dir::new("controller");
    let file = dir.write("config.toml", "controller = 'unix:/nowhere/file.sock'\n");
    let asked = |flag: Option<&str>, environment: Option<&str>| {
        let mut command = roam(&dir.0, &["route", "ls", "--config"]);
        command.arg(&file).args(flag.into_iter().flat_map(|url| ["--controller", url]));
        command.envs(environment.map(|url| ("ROAM_CONTROLLER", url)));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        String::from_utf8(output.stderr).unwrap()
    };
    let (flag, environment) = (Some("unix:/nowhere/flag.sock"), Some("unix:/nowhere/environment.sock"));
    assert!(asked(flag, environment).contains("flag.sock"));
    assert!(asked(None, environment).contains("environment.sock"));
    assert!(asked(None, None).contains("file.sock"));
    // None is named: this machine's, which says how to get one.
    let none = failed(&dir.0, &["route", "ls"], 2);
    assert!(none.contains("roam sdn") && none.contains("roam lab up") && none.contains("ROAM_CONTROLLER"), "{none}");
    fs::create_dir_all(dir.0.join("run")).unwrap();
    dir.write("run/sdn.sock", "");
    assert!(failed(&dir.0, &["route", "ls"], 3).contains("run/sdn.sock"));
}

#[test]
fn what_makes_no_sense_to_route_and_front_is_said() {
    let dir = Dir::new("route");
    let at = ["--controller", "unix:/nowhere/sdn.sock"];
    let cases: [(&[&str], i32, &str); 12] = [
        (&["route", "ls", "--controller", "http://a"], 2, "https://"),
        (&["route", "ls", "--controller", "https://a"], 2, "--tls-dir"),
        (&["route", "ls", "--controller", "nolab"], 4, "no lab `nolab`"),
        (&["route", "move", "kv"], 2, "--to"),
        (&["route", "move", "kv", "--to", "Host B"], 2, "Host B"),
        (&["route", "move", "kv", "--to", "b", "--generation", "x"], 2, "generation"),
        (&["route", "claim", "--host", "a"], 2, "--mac"),
        (&["route", "claim", "--host", "a", "--mac", "01:00:00:00:00:00"], 2, "01:00:00:00:00:00"),
        (&["route", "claim", "--host", "a", "--mac", "02:00:00:00:00:01", "--ip", "10.0.0.1/8"], 2, "10.0.0.1/8"),
        (&["route", "watch", "--json", "--plain"], 2, "--plain"),
        (&["front", "add", "tcp/192.0.2.1", "--to", "kv:1"], 2, "tcp/192.0.2.1:80"),
        (&["front", "rm", "sctp/192.0.2.1:1"], 2, "no front"),
    ];
    for (arguments, code, says) in cases {
        let error = failed(&dir.0, arguments, code);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    for to in ["kv", "kv:", "kv:70000", ":1"] {
        let error = failed(&dir.0, &[&["front", "add", "tcp/192.0.2.1:80", "--to", to][..], &at].concat(), 2);
        assert!(error.contains("kv:11211"), "{to}: {error}");
    }
    let unreachable = failed(&dir.0, &[&["route", "watch"][..], &at].concat(), 3);
    assert!(unreachable.contains("/nowhere/sdn.sock"), "{unreachable}");
}

#[test]
fn what_makes_no_sense_to_migrate_is_said() {
    let dir = Dir::new("migrate");
    let at = ["--from", "unix:/nowhere/api.sock"];
    let cases: [(&[&str], i32, &str); 15] = [
        (&["migrate", "kv"], 2, "--to"),
        (&["migrate", "--to", "host-b"], 2, "<NAME>"),
        (&["migrate", "kv", "--to", "Host B"], 2, "Host B"),
        (&["migrate", "kv", "--to", "b", "--to", "c"], 2, "--to once"),
        (&["migrate", "kv", "--to", "b", "--at", "somewhere"], 2, "somewhere"),
        (&["migrate", "kv", "--to", "b", "--plan", "beam"], 2, "stop_and_copy"),
        (&["migrate", "kv", "--to", "b", "--downtime", "1parsec"], 2, "5ms"),
        (&["migrate", "kv", "--to", "b", "--downtime", "2min"], 2, "--downtime"),
        (&["migrate", "kv", "--to", "b", "--bandwidth", "fast"], 2, "10Mbit"),
        (&["migrate", "kv", "--to", "b"], 2, "roam lab up"),
        (&["migrate", "kv", "--to", "b", "--from", "host-z"], 4, "no host `host-z`"),
        (&["migrate", "--all"], 2, "--from"),
        (&["migrate", "kv", "--all", "--from", "host-a"], 2, "--all"),
        (&["migrations", "--cancel", "1", "--guest", "kv"], 2, "--guest"),
        (&["migrations", "--host", "unix:/nowhere/api.sock"], 3, "/nowhere/api.sock"),
    ];
    for (arguments, code, says) in cases {
        let error = failed(&dir.0, arguments, code);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    for arguments in [&["migrate", "kv", "--to", "b"][..], &["migrate", "--all"], &["migrate", "--all", "--to", "b"]] {
        let error = failed(&dir.0, &[arguments, &at].concat(), 3);
        assert!(error.contains("/nowhere/api.sock"), "{arguments:?}: {error}");
    }
}

#[test]
fn a_closed_output_is_no_error() {
    let dir = Dir::new("pipe");
    succeeded(&dir.0, &["cert", "init", "--dir", "pki"]);
    let show = ["cert", "show", "pki/ca.pem"];
    for arguments in [&["completions", "bash"][..], &show, &[&show[..], &["--json"]].concat()] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = roam(&dir.0, arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
