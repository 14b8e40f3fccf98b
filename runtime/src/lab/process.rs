//! A child process whose output is kept and whose end is certain.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LabError;

/// Output kept of each stream of a process; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often a process that is waited for is looked at.
const WAIT_STEP: Duration = Duration::from_millis(2);
/// How much of a failed command's output an error carries.
const ERROR_OUTPUT_BYTES_MAX: usize = 4096;
/// How long output may still come after the end of the process: a grandchild may hold the pipe.
const TRAILING_OUTPUT_LIMIT: Duration = Duration::from_secs(1);

/// A running child. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    line: String,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
}

/// A child that has ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// The command line.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Process {
    /// Starts `command` with all three standard streams in our hands.
    pub fn spawn(mut command: Command) -> Result<Self, LabError> {
        let line = command_line(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(LabError::io(format!("starting `{line}`")))?;
        let stdout = Output::collect(child.stdout.take().expect("stdout is piped"));
        let stderr = Output::collect(child.stderr.take().expect("stderr is piped"));
        Ok(Self { child, line, stdout, stderr })
    }

    /// The command line.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let id = Pid::from_raw(self.child.id() as i32);
        kill(id, signal).map_err(|errno| LabError::io(format!("{signal} to `{}`", self.line))(errno.into()))
    }

    /// What it wrote to its standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().bytes).into_owned()
    }

    /// What it wrote to its standard output so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.lock().bytes.clone()
    }

    /// Waits until its standard error contains `text`; an error when it ends first or takes longer than `limit`.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<(), LabError> {
        if self.stderr.wait_until(limit, |bytes| contains(bytes, text.as_bytes())) {
            return Ok(());
        }
        // A stream may end a moment before its process does.
        match self.wait(TRAILING_OUTPUT_LIMIT)? {
            Some(status) => Err(self.failed(status)),
            None => Err(self.timed_out(limit)),
        }
    }

    /// How it ended, with all of its output there; or `None` when it runs longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, LabError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.poll()? {
                Some(status) => {
                    self.stdout.wait_until(TRAILING_OUTPUT_LIMIT, |_| false);
                    self.stderr.wait_until(TRAILING_OUTPUT_LIMIT, |_| false);
                    return Ok(Some(status));
                }
                None if Instant::now() >= deadline => return Ok(None),
                None => thread::sleep(WAIT_STEP),
            }
        }
    }

    /// Gives it `input`, closes its standard input and waits for the end. A process over its `limit` is killed.
    pub fn finish(mut self, input: &[u8], limit: Duration) -> Result<Finished, LabError> {
        let mut pipe = self.child.stdin.take().expect("stdin is piped, and taken only here");
        let status = thread::scope(|scope| {
            // A child need not read all of its input, nor any: what it made of it is for the caller to judge.
            scope.spawn(move || pipe.write_all(input));
            let status = self.wait(limit);
            if !matches!(status, Ok(Some(_))) {
                // Also frees the writer above.
                let _ = self.child.kill();
            }
            status
        })?;
        let Some(status) = status else { return Err(self.timed_out(limit)) };
        Ok(Finished { line: self.line.clone(), status, stdout: self.stdout(), stderr: self.stderr() })
    }

    fn poll(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child.try_wait().map_err(LabError::io(format!("waiting for `{}`", self.line)))
    }

    fn failed(&self, status: ExitStatus) -> LabError {
        LabError::Command { command: self.line.clone(), status: status.to_string(), output: tail(&self.stderr()) }
    }

    fn timed_out(&self, limit: Duration) -> LabError {
        LabError::Timeout { command: self.line.clone(), limit, output: tail(&self.stderr()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Itself, or an error with what it said when it ended with one.
    pub fn success(self) -> Result<Self, LabError> {
        if self.status.success() {
            return Ok(self);
        }
        let said = if self.stderr.trim().is_empty() { self.text() } else { self.stderr };
        Err(LabError::Command { command: self.line, status: self.status.to_string(), output: tail(&said) })
    }

    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// What one stream has given so far.
#[derive(Debug, Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct OutputState {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    /// Reads `stream` to its end on a thread of its own, which ends with the last process that holds it.
    fn collect(mut stream: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let sink = output.clone();
        thread::spawn(move || {
            let mut piece = vec![0; 64 * 1024];
            loop {
                let length = match stream.read(&mut piece) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                let mut state = sink.lock();
                let room = OUTPUT_BYTES_MAX - state.bytes.len();
                state.bytes.extend_from_slice(&piece[..length.min(room)]);
                state.ended = length == 0;
                sink.changed.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        output
    }

    /// Waits until `done` holds for what is there, or the stream ends, or `limit` is over. Whether `done` holds.
    fn wait_until(&self, limit: Duration, done: impl Fn(&[u8]) -> bool) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| !state.ended && !done(&state.bytes))
            .unwrap_or_else(PoisonError::into_inner);
        done(&state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

fn tail(text: &str) -> String {
    let text = text.trim();
    let start = text.len().saturating_sub(ERROR_OUTPUT_BYTES_MAX);
    text[text.ceil_char_boundary(start)..].to_owned()
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn(command).unwrap()
    }

    #[test]
    fn input_and_output_pass_whole() {
        let input: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let finished = shell("cat; echo done >&2").finish(&input, LIMIT).unwrap().success().unwrap();
        assert!(finished.stdout == input);
        assert_eq!(finished.stderr, "done\n");
    }

    #[test]
    fn a_child_that_reads_nothing_blocks_nobody() {
        assert!(shell("exit 0").finish(&[0; 1_000_000], LIMIT).unwrap().status.success());
    }

    #[test]
    fn a_failure_carries_what_was_said() {
        let error = shell("echo broken pipework >&2; exit 3").finish(b"", LIMIT).unwrap().success().unwrap_err();
        assert!(error.to_string().contains("exit status: 3): broken pipework"), "{error}");
    }

    #[test]
    fn a_child_that_hangs_is_ended() {
        let error = shell("echo waiting >&2; exec sleep 100").finish(b"", Duration::from_millis(300)).unwrap_err();
        assert!(matches!(&error, LabError::Timeout { output, .. } if output == "waiting"), "{error}");
    }

    #[test]
    fn a_line_is_waited_for() {
        let mut child = shell("sleep 0.1; echo ready >&2; exec sleep 100");
        child.wait_for("ready", LIMIT).unwrap();
        assert_eq!(child.wait(Duration::ZERO).unwrap(), None);
        let error = shell("echo no >&2; exit 1").wait_for("ready", LIMIT).unwrap_err();
        assert!(error.to_string().contains("no"), "{error}");
    }
}
