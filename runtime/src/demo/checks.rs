//! What ordinary programs get from the guests.

use std::time::Duration;

use roam_abi::pattern;
use serde::Serialize;

use super::show::Show;
use super::stage::{KV, SQUARE, Stage, WEB};
use crate::lab::{Finished, Missing, require};

/// How long one program may take.
const LIMIT: Duration = Duration::from_secs(20);
const UPLOAD_BYTES: usize = 8 << 20;
/// Longer input is not shown.
const SHOWN_INPUT_BYTES_MAX: usize = 100;

/// What came of one check.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) name: &'static str,
    /// `None`: not tried, `detail` says why.
    pub(super) passed: Option<bool>,
    pub(super) detail: String,
}

/// One program, what it is given, and what its output must say.
struct Check {
    name: &'static str,
    tool: (&'static str, &'static str),
    line: String,
    input: Vec<u8>,
    /// The good news, or what is wrong.
    judge: fn(&Finished) -> Result<String, String>,
}

pub(super) fn run(stage: &Stage, show: &mut Show) -> Vec<Outcome> {
    let attempt = |check: Check| {
        show.command(&check.typed());
        let (passed, detail) = match check.attempt(stage) {
            Ok(detail) => (Some(true), detail),
            Err(Failure::Missing(missing)) => (None, missing.to_string()),
            Err(Failure::Wrong(detail)) => (Some(false), detail),
        };
        let outcome = Outcome { name: check.name, passed, detail };
        show.outcome(&outcome);
        outcome
    };
    checks().into_iter().map(attempt).collect()
}

enum Failure {
    Missing(Missing),
    Wrong(String),
}

impl Check {
    fn attempt(&self, stage: &Stage) -> Result<String, Failure> {
        require(self.tool.0, self.tool.1).map_err(Failure::Missing)?;
        let finished = stage.client.call(&self.line, &self.input, LIMIT).and_then(Finished::success);
        let finished = finished.map_err(|error| Failure::Wrong(error.line()))?;
        (self.judge)(&finished).map_err(Failure::Wrong)
    }

    /// The command as one would type it: short input by `printf`, long input from a file.
    fn typed(&self) -> String {
        match self.input.as_slice() {
            [] => self.line.clone(),
            input if input.len() <= SHOWN_INPUT_BYTES_MAX => {
                format!("printf '{}' | {}", input.escape_ascii(), self.line)
            }
            input => format!("{} < {} MiB", self.line, input.len() >> 20),
        }
    }
}

fn checks() -> Vec<Check> {
    const PING: (&str, &str) = ("ping", "iputils-ping");
    const CURL: (&str, &str) = ("curl", "curl");
    const NC: (&str, &str) = ("nc", "netcat-openbsd");
    let web = format!("http://{}", WEB.ip);
    let check = |name, tool, line: String, judge| Check { name, tool, line, input: Vec::new(), judge };
    let fed = |name, tool, line: String, input: &[u8], judge| Check { name, tool, line, input: input.to_vec(), judge };
    vec![
        check("ping", PING, format!("ping -c 3 -i 0.2 -W 2 {}", SQUARE.ip), pinged),
        check("ping over IPv6", PING, format!("ping -6 -c 3 -i 0.2 -W 2 {}", KV.ip6), pinged),
        check("a page", CURL, format!("curl -sSf -m 10 {web}/"), |got| match got.text() {
            text if text.contains("<html") => Ok(format!("{} bytes of HTML", text.len())),
            text => Err(format!("not a page: {text:?}")),
        }),
        check(
            "two pages over one connection",
            CURL,
            format!("curl -sSf -m 10 -w %{{http_code}}:%{{num_connects}}, -o /dev/null -o /dev/null {web}/ {web}/"),
            |got| same("200:1,200:0,", &got.text(), "the second request needed no new connection"),
        ),
        fed("an upload", CURL, format!("curl -sSf -m 15 --data-binary @- {web}/upload"), &upload(), uploaded),
        fed("a square", NC, format!("nc -u -w 1 {} 7000", SQUARE.ip), b"111111111\n", |got| {
            same("12345678987654321\n", &got.text(), "111111111 squared is 12345678987654321")
        }),
        fed(
            "a memcached dialogue",
            NC,
            format!("nc -w 5 {} 11211", KV.ip),
            b"set greeting 0 0 5\r\nhello\r\nget greeting\r\nquit\r\n",
            |got| same("STORED\r\nVALUE greeting 0 5\r\nhello\r\nEND\r\n", &got.text(), "set, then get: hello"),
        ),
    ]
}

fn same(expected: &str, got: &str, good: &str) -> Result<String, String> {
    if got == expected { Ok(good.into()) } else { Err(format!("expected {expected:?}, got {got:?}")) }
}

/// Three replies of three; the detail is ping's own last line, the round-trip times.
fn pinged(got: &Finished) -> Result<String, String> {
    let text = got.text();
    match text.lines().last() {
        Some(times) if text.contains(" 0% packet loss") => Ok(format!("3 of 3 answered, {times}")),
        _ => Err(format!("not all answered: {text}")),
    }
}

fn upload() -> Vec<u8> {
    let mut bytes = vec![0; UPLOAD_BYTES];
    pattern::fill(&mut bytes, 0);
    bytes
}

fn uploaded(got: &Finished) -> Result<String, String> {
    let answer = got.text();
    if answer.contains(blake3::hash(&upload()).to_hex().as_str()) {
        Ok(format!("{} MiB, its digest came back and is right", UPLOAD_BYTES >> 20))
    } else {
        Err(format!("another digest: {answer}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(stdout: &[u8]) -> Finished {
        Finished { line: "x".into(), status: Default::default(), stdout: stdout.to_vec(), stderr: String::new() }
    }

    #[test]
    fn lost_pings_fail() {
        let good = "3 packets transmitted, 3 received, 0% packet loss, time 1ms\nrtt min/avg/max/mdev = 1/2/3/0 ms\n";
        assert!(pinged(&finished(good.as_bytes())).is_ok());
        assert!(pinged(&finished(good.replace(" 0%", " 100%").as_bytes())).is_err());
        assert!(pinged(&finished(b"")).is_err());
    }

    #[test]
    fn commands_are_shown_as_one_would_type_them() {
        let shown: Vec<String> = checks().iter().map(Check::typed).collect();
        assert!(shown.contains(&r"printf '111111111\n' | nc -u -w 1 10.90.0.10 7000".to_owned()), "{shown:?}");
        assert!(shown.iter().any(|line| line.ends_with("/upload < 8 MiB")), "{shown:?}");
    }
}
