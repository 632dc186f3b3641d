//! The API's document as a judge of its answers: what is answered must be described, and what is described as a whole
//! must have nothing else in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use jsonschema::Validator;
use serde_json::{Value, json};
use ureq::http::HeaderMap;

/// An answer, and to what.
pub(crate) struct Told<'a> {
    pub(crate) method: &'a str,
    /// Without the query.
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

pub(crate) struct Spec {
    pub(crate) document: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Spec {
    /// That of the server at this address, which is that of every server of this process.
    pub(crate) fn of(address: &str) -> &'static Self {
        static SPEC: OnceLock<Spec> = OnceLock::new();
        SPEC.get_or_init(|| {
            let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
            let mut answer = agent.get(format!("http://{address}/api/openapi.json")).call().unwrap();
            Self::new(serde_json::from_slice(&answer.body_mut().read_to_vec().unwrap()).unwrap())
        })
    }

    fn new(mut document: Value) -> Self {
        close(&mut document);
        Self { document, validators: Mutex::default() }
    }

    /// What of an answer is not as described.
    pub(crate) fn complaint(&self, told: &Told<'_>) -> Option<String> {
        let Told { status, .. } = *told;
        let Some((path, methods)) = self.path(told.path) else {
            return (status != 404).then(|| format!("{status} from a path that is not described"));
        };
        let method = if told.method == "HEAD" { "get" } else { &told.method.to_lowercase() };
        let Some(operation) = methods.get(method) else {
            // Who asks is asked first in some places.
            return (![401, 405].contains(&status)).then(|| format!("{status} from a method that is not described"));
        };
        let response = &operation["responses"][status.to_string()];
        if response.is_null() {
            return Some(format!("status {status} is not described: {}", String::from_utf8_lossy(told.body)));
        }
        let response = self.resolved(response);
        let name = format!("{method} {path} {status}");
        let headers = response["headers"].as_object().into_iter().flatten();
        let headers = headers.filter_map(|(header, described)| self.header(&name, header, described, told.headers));
        let body = if told.method == "HEAD" { None } else { self.body(&name, response, told) };
        headers.chain(body).next()
    }

    fn header(&self, name: &str, header: &str, described: &Value, given: &HeaderMap) -> Option<String> {
        let Some(value) = given.get(header) else {
            return (described["required"] == true).then(|| format!("the header {header} is missing"));
        };
        let value = value.to_str().unwrap();
        let value = value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number));
        self.misfit(&format!("{name} {header}"), &described["schema"], &value).map(|it| format!("{header}: {it}"))
    }

    fn body(&self, name: &str, response: &Value, told: &Told<'_>) -> Option<String> {
        let Some(content) = response["content"].as_object() else {
            return (!told.body.is_empty()).then(|| "a body that is not described".to_owned());
        };
        let given = told.headers.get("content-type").map_or("", |given| given.to_str().unwrap());
        let Some(media) = content.get(given) else { return Some(format!("content type {given:?}")) };
        if given != "application/json" {
            return None;
        }
        match serde_json::from_slice(told.body) {
            Ok(body) => self.misfit(name, &media["schema"], &body).map(|it| format!("{it} in {body}")),
            Err(error) => Some(format!("the body is not JSON: {error}")),
        }
    }

    fn misfit(&self, name: &str, schema: &Value, value: &Value) -> Option<String> {
        let mut validators = self.validators.lock().unwrap();
        let validator = validators.entry(name.to_owned()).or_insert_with(|| {
            let mut whole = schema.clone();
            whole["components"] = self.document["components"].clone();
            Arc::new(jsonschema::options().should_validate_formats(true).build(&whole).unwrap())
        });
        let validator = Arc::clone(validator);
        drop(validators);
        validator.iter_errors(value).next().map(|error| format!("{error} at {:?}", error.instance_path().to_string()))
    }

    /// The described path that a path is one of, with its methods: the one that leaves least open.
    fn path(&self, path: &str) -> Option<(&str, &Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let fits = |described: &str| match described.split_once('{') {
            None => path == described || path.strip_suffix('/') == Some(described),
            Some((before, rest)) => {
                let after = rest.split_once('}').unwrap().1;
                path.len() > before.len() + after.len() && path.starts_with(before) && path.ends_with(after)
            }
        };
        let fixed = |described: &str| (!described.contains('{'), described.len());
        let found = paths.iter().filter(|(described, _)| fits(described)).max_by_key(|(described, _)| fixed(described));
        found.map(|(described, methods)| (described.as_str(), methods))
    }

    /// What a reference leads to.
    pub(crate) fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        self.document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }
}

/// Makes objects refuse fields that they do not describe: clients must bear new ones, but we describe all of them.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let is_schema =
                fields.get("type").is_some_and(|kind| *kind == "object" || kind.to_string().contains("\"object\""));
            if is_schema && fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("unevaluatedProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

/// A judge that lets everything pass would make every test pass.
#[test]
fn the_judge_sees_what_is_not_described() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"] });
    let answered = json!({
        "description": "", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/A" } } },
        "headers": { "X-Age": { "required": true, "schema": { "type": "integer" } } },
    });
    let spec = Spec::new(json!({
        "paths": {
            "/api/a": { "get": { "responses": { "200": { "$ref": "#/components/responses/A" }, "304": {} } } },
            "/api/a/{id}": { "get": { "responses": {} } },
            "/api/a/{id}/b": { "post": { "responses": { "200": { "content": { "text/plain": {} } } } } },
        },
        "components": { "schemas": { "A": schema }, "responses": { "A": answered } },
    }));
    let complaint = |method: &str, path: &str, status: u16, headers: &[(&'static str, &str)], body: &str| {
        let mut given = HeaderMap::new();
        for (name, value) in headers {
            given.insert(*name, value.parse().unwrap());
        }
        spec.complaint(&Told { method, path, status, headers: &given, body: body.as_bytes() })
    };
    let (json, age) = (("content-type", "application/json"), ("x-age", "1"));
    let good = [
        complaint("GET", "/api/a", 200, &[json, age], r#"{"a":1}"#),
        complaint("HEAD", "/api/a/", 200, &[json, age], ""),
        complaint("GET", "/api/a", 304, &[], ""),
        complaint("POST", "/api/a", 405, &[], "whatever"),
        complaint("POST", "/api/a/1//b", 200, &[("content-type", "text/plain")], "x"),
        complaint("GET", "/api/c", 404, &[], ""),
    ];
    assert_eq!(good, [const { None }; 6]);
    let bad = [
        complaint("GET", "/api/a", 200, &[json, age], r#"{"a":"1"}"#),
        complaint("GET", "/api/a", 200, &[json, age], r#"{"a":1,"b":2}"#),
        complaint("GET", "/api/a", 200, &[json, age], "{}"),
        complaint("GET", "/api/a", 200, &[json, age], ""),
        complaint("GET", "/api/a", 200, &[json, ("x-age", "old")], r#"{"a":1}"#),
        complaint("GET", "/api/a", 200, &[json], r#"{"a":1}"#),
        complaint("GET", "/api/a", 200, &[age], r#"{"a":1}"#),
        complaint("GET", "/api/a", 304, &[], "x"),
        complaint("GET", "/api/a", 500, &[json], "{}"),
        complaint("GET", "/api/a/1", 200, &[json], "{}"),
        complaint("GET", "/api/a/1/b", 200, &[json], "{}"),
        complaint("GET", "/api/c", 200, &[json], "{}"),
    ];
    assert!(bad.iter().all(Option::is_some), "{bad:#?}");
}
