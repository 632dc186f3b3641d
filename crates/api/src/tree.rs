//! `GET /api/jobs/{id}/tree`: the workflow that a job belongs to.
//!
//! The jobs come in one list, parents before their children and siblings by their creation, each with its depth: a
//! chain of some hundred steps, nested as deeply, would be more than many a JSON parser reads.

use std::collections::{HashMap, HashSet};

use projection::Record;
use proto_events::JobState;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;
use views::{Reader, ViewError};
use warp::http::StatusCode;

use crate::jobs::{IN_PATH, ONE_ERRORS};
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_HEADERS};
use crate::params;
use crate::times::Millis;

/// Jobs of one workflow that are shown, those first that stand first in the log.
const MOST: usize = 1_000;

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    about: "Parents come before their children. A parent that nothing is known of is shown with `known` false; at most \
            1,000 jobs are shown, those first that stand first in the log.",
    in_path: IN_PATH,
    query: params::READ,
    answers: &[Answer::json::<Tree>(StatusCode::OK, "The workflow.").with(READ_HEADERS), NOT_MODIFIED],
    errors: ONE_ERRORS,
    ..Operation::get("/api/jobs/{id}/tree", "getTree", "jobs", "The workflow that a job belongs to", Access::Reader)
}];

/// A workflow.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "JobTree")]
pub(crate) struct Tree {
    /// The job that began it.
    root_id: Uuid,
    /// How many jobs it has, as far as is known; jobs that are only named as somebody's parent do not count.
    total: usize,
    /// Whether there are more than are shown.
    truncated: bool,
    /// The jobs, parents before their children.
    data: Vec<Node>,
}

/// A job of a workflow.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "TreeNode")]
struct Node {
    id: Uuid,
    /// How many jobs are above it.
    depth: usize,
    /// The job above it; null for the first one.
    parent_id: Option<Uuid>,
    /// How many jobs are right below it.
    children: usize,
    /// Whether anything is known of it but that it is another one's parent.
    known: bool,
    external_id: Option<String>,
    name: Option<String>,
    queue: Option<String>,
    worker_id: Option<String>,
    state: JobState,
    created_at: Option<Millis>,
    started_at: Option<Millis>,
    completed_at: Option<Millis>,
    duration_ms: Option<u64>,
    attempt: Option<u32>,
    error: Option<String>,
}

impl Tree {
    /// The workflow of this job.
    pub(crate) fn of(record: &Record, reader: &Reader) -> Result<Self, ViewError> {
        let root_id = record.root_id.unwrap_or(record.id);
        let (mut jobs, others) = reader.workflow(root_id, MOST)?;
        let root = if root_id == record.id { Some(record.clone()) } else { reader.job(root_id)? };
        let total = others + usize::from(root.is_some());
        // The one that is asked for is shown however many there are.
        if root_id != record.id && !jobs.iter().any(|job| job.id == record.id) {
            jobs.push(record.clone());
        }
        let truncated = jobs.len() < others;
        jobs.extend(root);
        Ok(Self { root_id, total, truncated, data: in_order(root_id, jobs) })
    }
}

/// Puts jobs in the order of the tree. Parents that are not among them are shown as unknown; what is not below the root
/// by what is known is shown right below it.
fn in_order(root: Uuid, jobs: Vec<Record>) -> Vec<Node> {
    let known: HashMap<Uuid, Record> = jobs.into_iter().map(|job| (job.id, job)).collect();
    let mut below: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    for job in known.values().filter(|job| job.id != root) {
        let parent = job.parent_id.filter(|parent| *parent != job.id).unwrap_or(root);
        below.entry(parent).or_default().push(job.id);
    }
    let unknown: Vec<Uuid> = below.keys().copied().filter(|id| *id != root && !known.contains_key(id)).collect();
    below.entry(root).or_default().extend(unknown);
    let created = |id: &Uuid| (known.get(id).map(|job| job.created_at), *id);
    for jobs in below.values_mut() {
        jobs.sort_unstable_by_key(created);
    }

    let mut walk = Walk { known, below, seen: HashSet::new(), nodes: Vec::new() };
    walk.from(root, None);
    // Jobs that are each other's parents are below nobody.
    let mut left: Vec<Uuid> = walk.known.keys().copied().filter(|id| !walk.seen.contains(id)).collect();
    left.sort_unstable();
    for id in left {
        walk.from(id, Some(root));
    }
    let Walk { mut nodes, .. } = walk;
    let mut children: HashMap<Uuid, usize> = HashMap::new();
    for parent in nodes.iter().filter_map(|node| node.parent_id) {
        *children.entry(parent).or_default() += 1;
    }
    for node in &mut nodes {
        node.children = children.get(&node.id).copied().unwrap_or_default();
    }
    nodes
}

/// A walk through the tree. Not by recursion: a chain may be long.
struct Walk {
    known: HashMap<Uuid, Record>,
    below: HashMap<Uuid, Vec<Uuid>>,
    seen: HashSet<Uuid>,
    nodes: Vec<Node>,
}

impl Walk {
    fn from(&mut self, id: Uuid, parent: Option<Uuid>) {
        let depth = usize::from(parent.is_some());
        let mut open = vec![(id, parent, depth)];
        while let Some((id, parent, depth)) = open.pop() {
            if !self.seen.insert(id) {
                continue;
            }
            self.nodes.push(Node::of(id, depth, parent, self.known.get(&id)));
            let children = self.below.get(&id).map_or(&[][..], Vec::as_slice);
            open.extend(children.iter().rev().map(|child| (*child, Some(id), depth + 1)));
        }
    }
}

impl Node {
    fn of(id: Uuid, depth: usize, parent_id: Option<Uuid>, record: Option<&Record>) -> Self {
        let text = |of: fn(&Record) -> Option<&String>| record.and_then(of).cloned();
        Self {
            id,
            depth,
            parent_id,
            children: 0,
            known: record.is_some(),
            external_id: record.map(|record| record.external_id.clone()),
            name: record.map(|record| record.name.clone()),
            queue: text(|record| record.queue.as_ref()),
            worker_id: text(|record| record.worker_id.as_ref()),
            state: record.map_or(JobState::Unknown, |record| record.state),
            created_at: record.map(|record| Millis(record.created_at)),
            started_at: record.and_then(|record| record.started_at).map(Millis),
            completed_at: record.and_then(|record| record.completed_at).map(Millis),
            duration_ms: record.and_then(|record| record.duration_ms),
            attempt: record.map(|record| record.attempt),
            error: text(|record| record.error.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use projection::Row;
    use proto_events::{Event, Framework, Job, Position, Timestamp};

    fn id(external: &str) -> Uuid {
        proto_events::job_id(Uuid::nil(), external)
    }

    fn job(external: &str, parent: Option<&str>, millis: i64) -> Record {
        let mut job = Job::new(external, JobState::Completed);
        job.parent_id = parent.map(str::to_owned);
        job.root_id = Some("root".to_owned());
        let event = Event::job(Timestamp(millis * 1_000), Framework::Celery, job);
        Row::apply(None, Uuid::nil(), external, [(Position::new(1, 0), &event)]).unwrap().record
    }

    fn drawn(jobs: Vec<Record>) -> String {
        let external = ["root", "a", "b", "c", "d", "lost"].map(|name| (id(name), name));
        let name = |id: Uuid| external.iter().find(|(known, _)| *known == id).map_or("?", |(_, name)| name);
        let line = |node: &Node| {
            let known = if node.known { "" } else { "?" };
            format!("{}{}{known}{}", "-".repeat(node.depth), name(node.id), node.children)
        };
        in_order(id("root"), jobs).iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn parents_come_before_their_children_and_siblings_by_their_creation() {
        let jobs = vec![
            job("c", Some("a"), 4),
            job("b", Some("root"), 3),
            job("a", Some("root"), 2),
            job("d", Some("c"), 5),
            job("root", None, 1),
        ];
        assert_eq!(drawn(jobs), "root2 -a1 --c1 ---d0 -b0");
    }

    #[test]
    fn who_is_unknown_is_shown_as_such_and_nobody_is_left_out() {
        assert_eq!(drawn(vec![job("a", Some("lost"), 2)]), "root?1 -lost?1 --a0");
        // Its own parent, nobody's child, and two that are each other's parents.
        let jobs = vec![job("root", Some("root"), 1), job("a", Some("a"), 2), job("b", None, 3)];
        assert_eq!(drawn(jobs), "root2 -a0 -b0");
        let circle = drawn(vec![job("root", None, 1), job("c", Some("d"), 2), job("d", Some("c"), 3)]);
        assert!(["root1 -c1 --d0", "root1 -d1 --c0"].contains(&circle.as_str()), "{circle}");
    }

    #[test]
    fn a_chain_of_any_length_is_walked() {
        let mut jobs = vec![job("0", Some("root"), 0)];
        jobs.extend((1..50_000).map(|step| job(&step.to_string(), Some(&(step - 1).to_string()), step)));
        let nodes = in_order(id("root"), jobs);
        assert_eq!((nodes.len(), nodes.last().unwrap().depth), (50_001, 50_000));
    }
}
