//! An operation of the API, as its document describes it. Each module of handlers declares its own, in a constant
//! `OPERATIONS` beside them; `openapi` puts them together.
//!
//! ```ignore
//! pub(crate) const OPERATIONS: &[Operation] = &[Operation {
//!     query: params::READ,
//!     answers: &[Answer::json::<Tasks<'static>>(StatusCode::OK, "The task names.").with(READ_HEADERS), NOT_MODIFIED],
//!     errors: READ_ERRORS,
//!     ..Operation::get("/api/tasks", "listTasks", "tasks", "Task names, and how their jobs went", Access::Reader)
//! }];
//! ```

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};
use warp::http::StatusCode;

use crate::params::{NONE, Params};

/// A method of a path.
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    /// From `/api` on, with its variable parts in braces.
    pub(crate) path: &'static str,
    /// A name for programs, unique.
    pub(crate) id: &'static str,
    /// What it belongs to.
    pub(crate) tag: &'static str,
    /// A line.
    pub(crate) summary: &'static str,
    /// More, if there is more to say.
    pub(crate) about: &'static str,
    /// Who may.
    pub(crate) access: Access,
    /// The variable parts of the path.
    pub(crate) in_path: Params,
    /// The query parameters: those that the handler reads from the same table.
    pub(crate) query: Params,
    pub(crate) body: Option<Body>,
    /// What it answers where all is well, and where it answers something else than the envelope of errors.
    pub(crate) answers: &'static [Answer],
    /// The statuses of its errors; 401 follows from `access`, and everything may fail with 500.
    pub(crate) errors: &'static [StatusCode],
}

impl Operation {
    /// A read without parameters, to be completed.
    pub(crate) const fn get(
        path: &'static str,
        id: &'static str,
        tag: &'static str,
        summary: &'static str,
        access: Access,
    ) -> Self {
        let (in_path, query) = (NONE, NONE);
        let (method, about, body, answers, errors) = ("GET", "", None, &[], &[]);
        Self { method, path, id, tag, summary, about, access, in_path, query, body, answers, errors }
    }
}

/// Who may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    Anybody,
    /// A sender of events, by the key of its connection.
    Sender,
    /// Who may read: by session, admin token or read key.
    Reader,
    /// The operator: by session or admin token.
    Operator,
    /// The operator at the machine: by admin token alone.
    Admin,
}

impl Access {
    /// The names of the security schemes, one of which is needed.
    pub(crate) const fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Anybody => &[],
            Self::Sender => &["ingestKey"],
            Self::Reader => &["session", "adminToken", "readKey"],
            Self::Operator => &["session", "adminToken"],
            Self::Admin => &["adminToken"],
        }
    }
}

/// What is sent with a request.
pub(crate) struct Body {
    pub(crate) required: bool,
    pub(crate) content_type: &'static str,
    pub(crate) schema: SchemaOf,
}

impl Body {
    /// JSON of this type.
    pub(crate) const fn json<T: JsonSchema>(required: bool) -> Self {
        Self { required, content_type: "application/json", schema: SchemaGenerator::subschema_for::<T> }
    }
}

/// Gives the schema of a type, and remembers those that it is made of.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) about: &'static str,
    /// The content type and the schema, where there is a body.
    pub(crate) content: Option<(&'static str, SchemaOf)>,
    /// Content types of other texts that it may be instead.
    pub(crate) or: &'static [&'static str],
    pub(crate) headers: &'static [&'static Header],
}

impl Answer {
    /// One with JSON of this type.
    pub(crate) const fn json<T: JsonSchema>(status: StatusCode, about: &'static str) -> Self {
        Self::of::<T>(status, about, "application/json")
    }

    /// One with a body of this content type.
    pub(crate) const fn of<T: JsonSchema>(status: StatusCode, about: &'static str, content_type: &'static str) -> Self {
        let schema: SchemaOf = SchemaGenerator::subschema_for::<T>;
        Self { status, about, content: Some((content_type, schema)), or: &[], headers: &[] }
    }

    /// The same, or texts of these types.
    pub(crate) const fn or(self, or: &'static [&'static str]) -> Self {
        Self { or, ..self }
    }

    /// The same with these headers.
    pub(crate) const fn with(self, headers: &'static [&'static Header]) -> Self {
        Self { headers, ..self }
    }
}

/// A header of an answer.
pub(crate) struct Header {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) always: bool,
    pub(crate) schema: fn() -> Value,
}

/// How long to wait before asking again.
pub(crate) const RETRY_AFTER: Header = Header {
    name: "Retry-After",
    about: "Seconds after which to try again.",
    always: true,
    schema: || json!({ "type": "integer", "minimum": 0 }),
};

const E_TAG: Header = Header {
    name: "ETag",
    about: "Stands for this very answer: with `If-None-Match` the next request is answered 304 while it is the same.",
    always: true,
    schema: || json!({ "type": "string", "pattern": "^\"[0-9a-f]{32}\"$" }),
};

/// The headers of an answer that says what it is by a tag.
pub(crate) const TAGGED: &[&Header] = &[&E_TAG];

/// The headers of every answer to a read of the views.
pub(crate) const READ_HEADERS: &[&Header] = &[
    &E_TAG,
    &Header {
        name: "Forebay-Applied",
        about: "All of the log up to this position is in the answer.",
        always: true,
        schema: || json!({ "type": "integer", "minimum": 0 }),
    },
    &Header {
        name: "Forebay-Staleness-Ms",
        about: "All that the log held so many milliseconds ago is in the answer. Left out until that is known.",
        always: false,
        schema: || json!({ "type": "integer", "minimum": 0 }),
    },
    &Header {
        name: "Forebay-Stale",
        about: "Why nothing new comes into the answers.",
        always: false,
        schema: || json!({ "enum": ["log-recreated", "log-rolled-back", "log-missing", "upgrading"] }),
    },
];

/// Those of a read whose answer may be too long to have a tag.
pub(crate) const LONG_READ_HEADERS: &[&Header] =
    &[&Header { always: false, ..E_TAG }, READ_HEADERS[1], READ_HEADERS[2], READ_HEADERS[3]];

/// The answer to a read whose client has it already.
pub(crate) const NOT_MODIFIED: Answer = Answer {
    status: StatusCode::NOT_MODIFIED,
    about: "The client has this answer: `If-None-Match` named its tag.",
    content: None,
    or: &[],
    headers: READ_HEADERS,
};

/// The errors of a read of the views that finds something whatever it is asked.
pub(crate) const READ_ERRORS: &[StatusCode] = &[StatusCode::BAD_REQUEST, StatusCode::SERVICE_UNAVAILABLE];
