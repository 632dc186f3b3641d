//! A client of the API.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{HeaderMap, Method, Request};

use crate::API_KEY;

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null where it is no JSON.
    pub body: Value,
}

/// A client of one server, with one bearer token.
#[derive(Clone, Debug)]
pub struct Api {
    agent: Agent,
    address: String,
    token: String,
}

impl Api {
    /// A client for `host:port` with this bearer token.
    pub fn new(address: &str, token: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Where an answer leads is a part of it.
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(30)))
            .proxy(None)
            .build();
        Self { agent: config.into(), address: address.to_owned(), token: token.to_owned() }
    }

    /// `host:port` of the server.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A request with a body of any bytes. `None` where there was no answer.
    pub fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(body).unwrap()).ok()?;
        let bytes = response.body_mut().with_config().limit(1 << 30).read_to_vec().ok()?;
        Some(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        })
    }

    /// The body of an answer that is a text.
    pub fn send_text(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> String {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(Vec::new()).unwrap()).unwrap();
        let bytes = response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// `GET`, where the server may be down.
    pub fn try_get(&self, path: &str) -> Option<Answer> {
        self.send(Method::GET, path, &[("authorization", &format!("Bearer {}", self.token))], b"")
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|| panic!("no answer to GET {path}"))
    }

    /// `POST` of JSON, where the server may be down.
    pub fn try_post(&self, path: &str, body: &Value) -> Option<Answer> {
        let headers =
            [("authorization", format!("Bearer {}", self.token)), ("content-type", "application/json".into())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.send(Method::POST, path, &headers, &serde_json::to_vec(body).unwrap())
    }

    /// `DELETE`, where the server may be down.
    pub fn try_delete(&self, path: &str) -> Option<Answer> {
        self.send(Method::DELETE, path, &[("authorization", &format!("Bearer {}", self.token))], b"")
    }

    /// The record of a job by Forebay's id or by the framework's; `None` where it is not known.
    pub fn job(&self, id: &str) -> Option<Value> {
        let answer = self.try_get(&format!("/api/jobs/{id}"))?;
        match answer.status {
            200 => Some(answer.body),
            404 | 503 => None,
            status => panic!("GET /api/jobs/{id} answered {status}: {}", answer.body),
        }
    }

    /// `POST /api/ingest` of these events with the key of the default connection. `None` where there was no answer.
    pub fn ingest(&self, events: &[Value]) -> Option<Answer> {
        let body = serde_json::to_vec(&json!({ "events": events })).unwrap();
        let headers = [("authorization", format!("Bearer {API_KEY}")), ("content-type", "application/json".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.send(Method::POST, "/api/ingest", &headers, &body)
    }
}
