//! `GET /api/openapi.json`: the API described in OpenAPI 3.1, from the declarations that it is served by.
//!
//! # Adding an operation
//! 1. Derive `schemars::JsonSchema` for the struct that the handler answers with, with a name that says what it is of
//!    (`#[schemars(rename = "TaskList")]`): all of them share one namespace. Its doc comments become descriptions.
//! 2. Declare the query parameters in a table, and read them from it (`params`).
//! 3. Add an [`Operation`] to the `OPERATIONS` of the module of the handler, and a new module's to [`OPERATIONS`] here.
//! 4. Add the path to the table in `routes`, if it is a new one.
//!
//! A path without an operation fails the tests here, and so does the reverse; an answer that is not as its operation
//! says fails every test of the API that meets it.

use std::collections::BTreeSet;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::errors::{self, ApiError, wrong_method};
use crate::http::Call;
use crate::operation::{Access, Answer, Body, Header, Operation, RETRY_AFTER, TAGGED};
use crate::params::{self, Params};
use crate::{
    alerts, audit, auth, backup, consistency, coverage, evidence, failures, first_run, health, ingest, jobs,
    maintenance, manage, metrics, oidc, overview, quarantine, queues, session, sources, stream, tasks, tree, workers,
};

/// All operations, by modules.
const OPERATIONS: &[&[Operation]] = &[
    ingest::OPERATIONS,
    jobs::OPERATIONS,
    evidence::OPERATIONS,
    tree::OPERATIONS,
    tasks::OPERATIONS,
    failures::OPERATIONS,
    workers::OPERATIONS,
    coverage::OPERATIONS,
    queues::OPERATIONS,
    overview::OPERATIONS,
    stream::OPERATIONS,
    manage::OPERATIONS,
    sources::OPERATIONS,
    alerts::OPERATIONS,
    maintenance::OPERATIONS,
    quarantine::OPERATIONS,
    backup::OPERATIONS,
    session::OPERATIONS,
    oidc::OPERATIONS,
    audit::OPERATIONS,
    first_run::OPERATIONS,
    health::OPERATIONS,
    metrics::OPERATIONS,
    DOCUMENT_ITSELF,
];

const DOCUMENT_ITSELF: &[Operation] = &[Operation {
    answers: &[
        Answer::json::<Map<String, Value>>(StatusCode::OK, "The document.").with(TAGGED),
        Answer {
            status: StatusCode::NOT_MODIFIED,
            about: "The client has it already.",
            content: None,
            or: &[],
            headers: TAGGED,
        },
    ],
    errors: &[StatusCode::BAD_REQUEST],
    ..Operation::get("/api/openapi.json", "getDocument", "server", "This document", Access::Anybody)
}];

const ABOUT: &str = "The record of background jobs. What Sluice's public API documents is answered as documented; \
                     everything else is additive. Times are RFC 3339 in UTC. Query parameters that are not declared \
                     are refused, except by the endpoints for senders and probes.";

pub(crate) fn get(app: &App, call: &Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    params::none(&call.query)?;
    let document = app.document.get_or_init(|| document(app.version).to_string());
    Ok(consistency::conditional(document.clone().into_bytes(), &call.headers))
}

/// All operations.
pub(crate) fn all() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().flat_map(|operations| operations.iter())
}

fn document(version: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut described = Describer {
        // What is sent may leave out what is answered always.
        sent: settings.clone().for_deserialize().into_generator(),
        answered: settings.for_serialize().into_generator(),
        errors: BTreeSet::new(),
    };
    let error = described.answered.subschema_for::<errors::Envelope<'static>>();
    let mut paths = Map::new();
    for operation in all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_lowercase()] = described.operation(operation);
    }
    let responses: Map<String, Value> = described
        .errors
        .iter()
        .map(|status| (error_name(*status), error_response(*status, error.as_value())))
        .collect();
    let mut schemas = described.sent.take_definitions(true);
    schemas.extend(described.answered.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Forebay", "version": version, "description": ABOUT, "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas, "responses": responses, "securitySchemes": auth::schemes() },
    })
}

/// Describes operations, and remembers what they refer to.
struct Describer {
    sent: SchemaGenerator,
    answered: SchemaGenerator,
    errors: BTreeSet<StatusCode>,
}

impl Describer {
    fn operation(&mut self, operation: &Operation) -> Value {
        let in_place = |params: Params, place: &'static str| params.iter().map(move |param| param.described(place));
        let parameters: Vec<Value> =
            in_place(operation.in_path, "path").chain(in_place(operation.query, "query")).collect();
        let security: Vec<Value> = operation.access.schemes().iter().map(|scheme| json!({ *scheme: [] })).collect();
        let mut described = json!({
            "operationId": operation.id,
            "tags": [operation.tag],
            "summary": operation.summary,
            "parameters": parameters,
            "security": security,
            "responses": self.responses(operation),
        });
        if !operation.about.is_empty() {
            described["description"] = operation.about.into();
        }
        if let Some(Body { required, content_type, schema }) = &operation.body {
            let content = json!({ *content_type: { "schema": schema(&mut self.sent) } });
            described["requestBody"] = json!({ "required": required, "content": content });
        }
        described
    }

    fn responses(&mut self, operation: &Operation) -> Map<String, Value> {
        let mut responses = Map::new();
        for answer in operation.answers {
            let mut described = json!({ "description": answer.about, "headers": headers(answer.headers) });
            if let Some((content_type, schema)) = answer.content {
                described["content"] = json!({ content_type: { "schema": schema(&mut self.answered) } });
                for other in answer.or {
                    described["content"][*other] = json!({ "schema": { "type": "string" } });
                }
            }
            // One status may be answered in several formats.
            let before = responses.get_mut(answer.status.as_str()).and_then(|before| before["content"].as_object_mut());
            match (before, described["content"].as_object()) {
                (Some(before), Some(more)) => before.extend(more.clone()),
                _ => drop(responses.insert(answer.status.as_str().to_owned(), described)),
            }
        }
        let unauthorized = (operation.access != Access::Anybody).then_some(StatusCode::UNAUTHORIZED);
        // What a read key may not do.
        let is_beyond_reading = matches!(operation.access, Access::Operator | Access::Admin);
        let forbidden = is_beyond_reading.then_some(StatusCode::FORBIDDEN);
        let errors = operation
            .errors
            .iter()
            .copied()
            .chain(unauthorized)
            .chain(forbidden)
            .chain([StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR]);
        for status in errors {
            self.errors.insert(status);
            let reference = json!({ "$ref": format!("#/components/responses/{}", error_name(status)) });
            responses.insert(status.as_str().to_owned(), reference);
        }
        responses
    }
}

fn headers(headers: &[&Header]) -> Map<String, Value> {
    let described = |header: &&Header| {
        let Header { name, about, always, schema } = header;
        ((*name).to_owned(), json!({ "description": about, "required": always, "schema": schema() }))
    };
    headers.iter().map(described).collect()
}

/// The name of a status in camel case: `NotFound`.
fn error_name(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or(status.as_str()).split(' ').collect()
}

fn error_response(status: StatusCode, schema: &Value) -> Value {
    let retry = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    json!({
        "description": errors::about(status),
        "headers": headers(if retry { &[&RETRY_AFTER] } else { &[] }),
        "content": { "application/json": { "schema": schema } },
    })
}
