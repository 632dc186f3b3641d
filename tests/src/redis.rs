//! A Redis server for one test.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use crate::{Process, wait_for};

/// A Redis server on a free port of the loopback interface, empty at first.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    dir: TempDir,
    port: u16,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        let mut redis = Self { dir: tempfile::tempdir().unwrap(), port: 0, process: None };
        // Another program may take the free port before Redis does; then it ends, and another port is tried.
        wait_for("a Redis server to start", 30, || {
            redis.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            redis.launch().then_some(())
        });
        redis
    }

    /// Starts it again on the same port, with what it had kept.
    pub fn restart(&mut self) {
        self.process = None;
        wait_for("Redis to start again on its port", 30, || self.launch().then_some(()));
    }

    /// Ends it; it keeps its data.
    pub fn stop(&mut self) {
        self.process.as_mut().unwrap().stop();
        self.process = None;
    }

    /// The broker URL of one of its databases.
    pub fn url(&self, database: u8) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    /// Publishes these payloads on a channel, in few round trips.
    pub fn publish(&self, channel: &str, payloads: &[Vec<u8>]) {
        self.publisher().try_publish(channel, payloads).unwrap();
    }

    /// What publishes on its port, whether it runs or not.
    pub const fn publisher(&self) -> Publisher {
        Publisher { port: self.port }
    }

    /// Sends a command and gives the first line of the answer.
    pub fn command(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let words: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let request = format!("*{}\r\n{}", words.len(), words.concat());
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(!answer.starts_with('-'), "Redis answered {answer} to {words:?}");
        answer.trim_end().to_owned()
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn launch(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.dir.path());
        let mut process = Process::start("redis-server", &mut command, &self.dir.path().join("log"));
        let up = wait_for("redis-server to listen or to end", 30, || match process.ended() {
            Some(_) => Some(false),
            None => TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(true),
        });
        self.process = up.then_some(process);
        up
    }
}

/// Publishes on a Redis that may be away.
#[derive(Clone, Copy, Debug)]
pub struct Publisher {
    port: u16,
}

impl Publisher {
    /// Publishes these payloads on a channel, in few round trips, and gives for each how many heard it.
    pub fn try_publish(self, channel: &str, payloads: &[Vec<u8>]) -> io::Result<Vec<u64>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let mut answers = BufReader::new(stream.try_clone()?);
        let mut heard = Vec::with_capacity(payloads.len());
        for chunk in payloads.chunks(50) {
            let mut request = Vec::new();
            for payload in chunk {
                let request_head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n", channel.len());
                request.extend_from_slice(request_head.as_bytes());
                request.extend_from_slice(format!("${}\r\n", payload.len()).as_bytes());
                request.extend_from_slice(payload);
                request.extend_from_slice(b"\r\n");
            }
            stream.write_all(&request)?;
            for _ in chunk {
                let mut answer = String::new();
                answers.read_line(&mut answer)?;
                let count = answer.trim_end().strip_prefix(':').and_then(|count| count.parse().ok());
                heard.push(count.ok_or_else(|| io::Error::other(format!("Redis answered {answer:?}")))?);
            }
        }
        Ok(heard)
    }
}
