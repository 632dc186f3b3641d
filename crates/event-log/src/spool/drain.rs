//! The task that brings what waits into the log, in order.

use std::time::Duration;

use failpoints::{Point, hit};
use proto_events::Event;

use super::store::{Change, Row};
use super::{Spool, SpoolError};
use crate::error::AppendError;
use crate::log::EventLog;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// For as long as the log is open.
pub(crate) async fn drain(spool: Spool, log: EventLog) {
    let mut closed = log.closed();
    tokio::select! {
        _ = closed.wait_for(|is_closed| *is_closed) => {}
        () = for_ever(&spool, &log) => {}
    }
}

async fn for_ever(spool: &Spool, log: &EventLog) {
    let mut pause = FIRST_PAUSE;
    let mut is_draining = false;
    loop {
        let waiting = spool.total();
        if waiting.arrays == 0 {
            if std::mem::take(&mut is_draining) {
                tracing::info!("all that waited in the spool is in the log");
            }
            spool.shared.filled.notified().await;
            continue;
        }
        log.link().wait_connected().await;
        if !std::mem::replace(&mut is_draining, true) {
            tracing::info!(events = waiting.events(), "the log answers: what waits in the spool is published");
        }
        match turn(spool, log).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(reason) => {
                tracing::warn!(reason, "what waits in the spool is not in the log yet; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Publishes the first of what waits, and removes what the log has acknowledged.
async fn turn(spool: &Spool, log: &EventLog) -> Result<(), String> {
    let text = |error: SpoolError| error.to_string();
    let rows = spool.take().await.map_err(text)?;
    let mut under_way = Vec::with_capacity(rows.len());
    let mut stored = Vec::with_capacity(rows.len());
    let mut failure = None;
    let mut too_large = None;
    for row in &rows {
        match log.append_pipelined(row.place.connection(), row.payload.clone()).await {
            Ok(ack) => under_way.push((row.place, ack)),
            Err(AppendError::TooLarge { .. }) => {
                too_large = Some(row);
                break;
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    for (place, ack) in under_way {
        match ack.await {
            Ok(_) => stored.push(place),
            // What follows it may be stored too, and is recognised when it is sent again.
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    hit(Point::SpoolPublished);
    if !stored.is_empty() {
        spool.change(Change::Stored(stored)).await.map_err(text)?;
    }
    if let Some(error) = failure {
        return Err(error.to_string());
    }
    match too_large {
        Some(row) => one_by_one(spool, log, row).await,
        None => Ok(()),
    }
}

/// An array that was gathered before anybody knew how little this server takes at once.
async fn one_by_one(spool: &Spool, log: &EventLog, row: &Row) -> Result<(), String> {
    let Row { place, tasks, others, payload } = row;
    let events: Vec<Event> = proto_events::decode(payload).into_iter().flatten().flatten().collect();
    let mut left = (*tasks, *others);
    for event in &events {
        let is_task = event.worker.is_none();
        match log.append(place.connection(), proto_events::encode(std::slice::from_ref(event)).into()).await {
            Ok(_) if is_task => left.0 = left.0.saturating_sub(1),
            Ok(_) => left.1 = left.1.saturating_sub(1),
            Err(error @ AppendError::TooLarge { .. }) => {
                tracing::error!(connection = %place.connection(), %error, "an event was dropped");
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let (place, (tasks, others)) = (*place, left);
    spool.change(Change::Refused { place, tasks, others }).await.map_err(|error| error.to_string())
}
