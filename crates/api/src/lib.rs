//! The HTTP API of Forebay: reads from the views, ingest into the log, sessions, connections, health.
//!
//! # Layout
//! - [`serve`]: the server around warp's service (`server`); which path leads where (`routes`)
//! - [`App`], [`Parts`]: what the handlers share; attached when the log and the views are open (`app`)
//! - `jobs`: `GET /api/jobs`, `GET /api/jobs/{id}`; `tree`: `GET /api/jobs/{id}/tree`
//! - `walk`: lists that are answered whole; `listed`: `GET /api/jobs` as CSV and JSON lines
//! - `flower`: `/flower/api`, what scripts read of Flower's API
//! - `stream`: `GET /api/events/stream`
//! - `tasks`, `failures`: `GET /api/tasks`, `/api/failures`; `overview`: `GET /api/overview`; `figures`: what they have in common
//! - `params`: query parameters, each declared once
//! - `openapi`, `operation`: `GET /api/openapi.json`, put together from what each module declares
//! - `evidence`: `GET /api/jobs/{id}/events`, and a job as it was at a time or position
//! - `workers`, `queues`: `GET /api/workers`, `GET /api/queues`, from the live view and the statistics
//! - `page`: the dashboard's page and files, from `assets`; `first_run`: `GET /api/first-run`
//! - `consistency`: how new the answers are, and how new a read asks them to be
//! - `ingest`: `POST /api/ingest`
//! - [`Door`]: by which way requests come in, and how many of them
//! - [`Auth`], `session`: who may do what; with a provider of OpenID Connect, too (`oidc`)
//! - `audit`: `GET /api/audit`, who changed what
//! - [`Connections`], [`ReadKeys`], `manage`: senders and their API keys, and API keys for those who read
//! - `kept`, `hashed`: how these are stored and followed, and what is stored of a key
//! - [`backup`]: `GET /api/export`, `POST /api/import`, and the format between them
//! - [`Maintenance`]: rebuilding and verifying the views (`maintenance`); events that cannot be used (`quarantine`)
//! - [`metrics`]: `GET /metrics`, for Prometheus, and the same as numbers
//! - `trace`: a span for each request, where somebody takes them
//! - `alerts`: `/api/alerts`, and what alerts are measured by
//! - `health`: how everything is
//! - [`ApiError`]: the one error, and the documented envelope (`errors`)
//!
//! # Invariants
//! - Ingest answers only after the log has acknowledged; reads answer only from the views (the events behind a record,
//!   those of the stream, and workers and queues as they are now, apart), and only after all that the log held at the
//!   start is applied.
//! - A read key or a reader never changes anything: by the method of a request, in one place, and not by its handler.
//! - A page of another site never changes anything: likewise.
//! - What says where a request comes from is believed of trusted proxies alone, and gone before any handler sees it.
//! - The key of a request decides its connection, never its body.

mod alerts;
mod app;
mod audit;
mod auth;
pub mod backup;
pub mod connections;
mod consistency;
mod coverage;
pub mod door;
mod errors;
mod evidence;
mod failures;
mod figures;
mod first_run;
mod flower;
mod hashed;
mod health;
mod http;
mod ingest;
mod jobs;
mod kept;
pub mod keys;
mod listed;
mod maintenance;
mod manage;
pub mod metrics;
mod oidc;
mod openapi;
mod operation;
mod overview;
mod page;
mod params;
mod quarantine;
mod queues;
mod routes;
mod server;
mod session;
mod signs;
mod sources;
mod stream;
mod tasks;
mod times;
mod trace;
mod tree;
mod walk;
mod workers;

pub use app::{App, Backends, Parts};
pub use auth::{Auth, EndedSessions, KeepSessions, Oidc, OidcSettings, PasswordError, Rules};
pub use connections::{Connection, ConnectionError, Connections, DefaultConnection};
pub use door::Door;
pub use errors::ApiError;
pub use kept::KeptError;
pub use keys::{KeyError, ReadKey, ReadKeys};
pub use maintenance::Maintenance;
pub use server::serve;
pub use trace::Adopt;
