//! The log read and decoded, and nothing else: what a rebuild is measured by.

use std::path::Path;
use std::time::Instant;

use event_log::{EventLog, LogMessage, ServerConfig};
use forebay_tests::forebay_binary;
use tokio::sync::mpsc;

/// Batches that may wait for each thread that decodes; as a rebuild has it.
const WAITING: usize = 4;

/// The log of a server that does not run.
pub(crate) async fn open_log(dir: &Path) -> EventLog {
    let binary = forebay_binary();
    let config = ServerConfig::Embedded {
        dir: dir.join("nats"),
        binary: Some(binary.with_file_name("nats-server")).filter(|beside| beside.is_file()),
        fsync_always: false,
        helper: binary,
    };
    EventLog::open(config).await.unwrap()
}

/// Events per second, on as many threads as there are processors. Nobody may use the directory.
pub(crate) fn drain(dir: &Path) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = open_log(dir).await;
        let begin = Instant::now();
        let events = read(&log).await;
        let rate = events as f64 / begin.elapsed().as_secs_f64();
        log.close().await;
        rate
    })
}

async fn read(log: &EventLog) -> usize {
    let info = log.info().await.unwrap();
    let decoders: Vec<_> = (0..std::thread::available_parallelism().unwrap().get())
        .map(|_| {
            let (input, mut batches) = mpsc::channel::<Vec<LogMessage>>(WAITING);
            let decoder = tokio::task::spawn_blocking(move || {
                let mut events = 0;
                while let Some(messages) = batches.blocking_recv() {
                    for message in messages {
                        let elements = proto_events::decode(&message.payload).unwrap();
                        events += elements.iter().filter(|element| element.is_ok()).count();
                    }
                }
                events
            });
            (input, decoder)
        })
        .collect();
    let mut reader = log.reader(info.first_sequence - 1);
    let mut inputs = decoders.iter().map(|(input, _)| input).cycle();
    while reader.position() < info.last_sequence {
        let batch = reader.next().await.unwrap();
        inputs.next().unwrap().send(batch.messages).await.unwrap();
    }
    let mut events = 0;
    for (input, decoder) in decoders {
        drop(input);
        events += decoder.await.unwrap();
    }
    events
}
