//! A program that a test runs.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// Lines of output that a failed test shows of each of its programs.
const SHOWN: usize = 60;

/// A running program; nothing that it started outlives this value. Its output goes to a file. It stays in the process
/// group of the test, so that Ctrl-C and a test runner's time limit reach it too.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; the output is appended to the file.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let mut file = OpenOptions::new().create(true).append(true).open(log).unwrap();
        writeln!(file, "--- {name} starts").unwrap();
        let output: File = file.try_clone().unwrap();
        let command = command.stdin(Stdio::null()).stdout(output).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// All that it has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// `kill -9` for it alone, not for what it started.
    pub fn kill(&mut self) {
        let _ = kill_process(self.pid(), Signal::KILL);
        self.child.wait().unwrap();
    }

    /// `kill -9` for it and all that it has started.
    pub fn kill_all(&mut self) {
        kill_with_descendants(self.pid());
        self.child.wait().unwrap();
    }

    /// Lets it stand still, or go on.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Asks it to end.
    pub fn ask_to_stop(&self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.ask_to_stop();
        let name = self.name.clone();
        wait_for(&format!("{name} to end when asked to"), 30, || self.ended())
    }

    /// The processes that it has started, with their names.
    pub fn children(&self) -> Vec<(Pid, String)> {
        children(self.pid())
    }
}

/// A figure of a process as the system tells it, such as `VmRSS:`, in MB.
pub fn memory(pid: Pid, figure: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1_024.0 / 1e6
}

/// How many files and sockets a process has open.
pub fn descriptors(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count()
}

/// A program that `make test-tools` or `make bench` put into the target directory.
pub fn tool(path: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let found = exe.ancestors().map(|dir| dir.join(path)).find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!("{path} is missing in the target directory: run `make test-tools`, or `make bench` for what it measures")
    })
}

fn children(parent: Pid) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // "PID (NAME) STATE PARENT …", and a name may hold anything.
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let Some((pid, name)) = head.split_once(" (") else { continue };
        let its_parent = tail.split(' ').nth(1).and_then(|parent| parent.parse().ok());
        if its_parent == Some(parent.as_raw_nonzero().get())
            && let Some(pid) = pid.parse().ok().and_then(Pid::from_raw)
        {
            found.push((pid, name.to_owned()));
        }
    }
    found
}

fn kill_with_descendants(pid: Pid) {
    let below = children(pid);
    let _ = kill_process(pid, Signal::KILL);
    for (pid, _) in below {
        kill_with_descendants(pid);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Once it has been waited for, its id may belong to another process.
        if self.ended().is_none() {
            kill_with_descendants(self.pid());
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the last output of {}:\n{}",
                self.name,
                lines[lines.len().saturating_sub(SHOWN)..].join("\n")
            );
        }
    }
}
