//! The HTTP API of Forebay: reads from the views, ingest into the log, sessions, connections, health.
//!
//! # Layout
//! - [`serve`]: the server around warp's service (`server`); which path leads where (`routes`)
//! - [`App`], [`Parts`]: what the handlers share; attached when the log and the views are open (`app`)
//! - `jobs`, `params`: `GET /api/jobs`, `GET /api/jobs/{id}`
//! - `evidence`: `GET /api/jobs/{id}/events`, and a job as it was at a time or position
//! - `workers`, `queues`: `GET /api/workers`, `GET /api/queues`, from the live view; `pages`: what they are asked
//! - `consistency`: how new the answers are, and how new a read asks them to be
//! - `ingest`: `POST /api/ingest`
//! - [`Auth`], `session`: who may read
//! - [`Connections`], `manage`: senders and their API keys
//! - [`backup`]: `GET /api/export`, `POST /api/import`, and the format between them
//! - [`Maintenance`]: rebuilding and verifying the views (`maintenance`)
//! - `health`: how everything is
//! - [`ApiError`]: the one error, and the documented envelope (`errors`)
//!
//! # Invariants
//! - Ingest answers only after the log has acknowledged; reads answer only from the views (the events behind a record,
//!   and workers and queues as they are now, apart), and only after all that the log held at the start is applied.
//! - The key of a request decides its connection, never its body.

mod app;
mod auth;
pub mod backup;
pub mod connections;
mod consistency;
mod errors;
mod evidence;
mod health;
mod http;
mod ingest;
mod jobs;
mod maintenance;
mod manage;
mod pages;
mod params;
mod queues;
mod routes;
mod server;
mod session;
mod workers;

pub use app::{App, Parts, Sources};
pub use auth::{Auth, PasswordError};
pub use connections::{Connection, ConnectionError, Connections, DefaultConnection};
pub use errors::ApiError;
pub use maintenance::Maintenance;
pub use server::serve;
