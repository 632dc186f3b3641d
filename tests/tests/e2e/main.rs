//! The main job, end to end: the real binary, a real nats-server, real Redis and RabbitMQ, real Celery workers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alerts;
mod backup;
mod chart;
mod compare;
mod configuration;
mod crashes;
mod dashboard;
mod day;
mod demo;
mod described;
mod documented;
mod door;
mod enabling;
mod flower;
mod lost;
mod map;
mod matrix;
mod otlp;
mod packages;
mod prometheus;
mod rabbitmq;
mod reconcile;
mod redaction;
mod redelivery;
mod retention;
mod sdk;
mod silence;
mod soak;
mod sources;
mod stream;
mod torn;
mod upgrade;
