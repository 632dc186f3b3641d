//! A full disk under the embedded server: nothing acknowledged is lost, and it goes on when there is room.

use event_log::testing::{SmallDisk, nats_server, old_nats_server};
use event_log::{AppendError, EventLog};

use crate::embedded::with_binary;
use crate::support::{CONNECTION, read_to, until, within};

/// So large that few of them fill what is left, and nothing that compression could make small.
fn large(number: u64) -> bytes::Bytes {
    let mut state = number;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    noise.take(200_000).collect::<Vec<u8>>().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_nothing_that_was_acknowledged_and_is_got_over() {
    for binary in [nats_server(), old_nats_server()] {
        let name = "full::a_full_disk_costs_nothing_that_was_acknowledged_and_is_got_over";
        let Some(disk) = SmallDisk::mount(160, name) else { return };
        let log = EventLog::open(with_binary(disk.path(), &binary)).await.unwrap();
        let mut acknowledged = Vec::new();
        for number in 0..10 {
            acknowledged.push((number, log.append(CONNECTION, large(number)).await.unwrap().sequence));
        }
        let mut reader = log.reader(0);

        disk.fill(3 << 20);
        let refused = within("the log to be full", async {
            for number in 100.. {
                match log.append(CONNECTION, large(number)).await {
                    Ok(appended) => acknowledged.push((number, appended.sequence)),
                    Err(error) => return error,
                }
            }
            unreachable!("a disk without end")
        })
        .await;
        assert!(matches!(&refused, AppendError::Full { reason } if reason.contains("no space left")), "{refused}");
        assert!(matches!(log.trouble(), Some(AppendError::Full { .. })), "whoever looks is told");
        // From now on nobody waits for an answer that does not come.
        let again = tokio::time::timeout(std::time::Duration::from_secs(1), log.append(CONNECTION, large(7_777))).await;
        assert!(matches!(again, Ok(Err(AppendError::Full { .. }))), "{again:?}");

        disk.relieve();
        within("the log to take events again", async {
            while log.append(CONNECTION, large(1_000)).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(log.trouble(), None);
        acknowledged.push((2_000, log.append(CONNECTION, large(2_000)).await.unwrap().sequence));
        let told = read_to(&mut reader, acknowledged.last().unwrap().1).await;
        for (number, sequence) in acknowledged {
            let found = told.messages.iter().find(|message| message.sequence == sequence);
            assert_eq!(found.map(|message| &message.payload), Some(&large(number)), "{number} at {sequence}");
        }
        log.close().await;
    }
}

/// The server is told at its start how much it may take, which on a disk that others fill is little.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_leave_on_the_disk_the_log_may_take() {
    for binary in [nats_server(), old_nats_server()] {
        let name = "full::what_others_leave_on_the_disk_the_log_may_take";
        let Some(disk) = SmallDisk::mount(600, name) else { return };
        disk.fill(150 << 20);
        let log = EventLog::open(with_binary(disk.path(), &binary)).await.unwrap();
        let room = || {
            // Missing for a moment whenever it is written anew.
            let config = std::fs::read_to_string(disk.path().join("nats/nats-server.conf")).unwrap_or_default();
            let room = config.split("max_file_store: ").nth(1).unwrap_or_default();
            room.split_whitespace().next().map_or(0, |room| room.parse::<u64>().unwrap())
        };
        assert!((1..150 << 20).contains(&room()));
        let mut number = 0;
        while log.info().await.unwrap().bytes < 90 << 20 {
            number += 1;
            log.append(CONNECTION, large(number)).await.unwrap();
        }
        disk.relieve();
        until("the server to be told of it", async || room() > 400 << 20).await;
        while log.info().await.unwrap().bytes < 200 << 20 {
            number += 1;
            log.append(CONNECTION, large(number)).await.unwrap();
        }
        log.close().await;
    }
}
