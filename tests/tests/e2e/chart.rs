//! The Helm chart, rendered by Helm itself with its values as they are and with each of them set, and held against the
//! schemas of Kubernetes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use forebay_tests::{forebay_binary, tool};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("crates/forebay/packaging/helm/forebay")
}

/// What Helm makes of each of these values, under the release of that name: all that Kubernetes would take.
fn rendered(cases: &[(&str, Value)]) -> Vec<Made> {
    let output = of_helm(cases);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    made.into_iter().map(Made).collect()
}

fn of_helm(cases: &[(&str, Value)]) -> Output {
    let cases: Vec<Value> =
        cases.iter().map(|(release, values)| json!({ "release": release, "values": values })).collect();
    let mut command = Command::new(tool("venv-helm/bin/kubernetes-validate").with_file_name("python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/chart.py")).arg(folder());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(cases).to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What was made of the chart.
struct Made(Value);

impl Made {
    fn find(&self, kind: &str) -> Option<&Value> {
        self.0["objects"].as_array().unwrap().iter().find(|it| it["kind"] == kind)
    }

    fn of(&self, kind: &str) -> &Value {
        self.find(kind).unwrap_or_else(|| panic!("no {kind} in {:#}", self.0))
    }

    fn kinds(&self) -> BTreeSet<&str> {
        self.0["objects"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect()
    }

    fn pod(&self) -> &Value {
        &self.of("StatefulSet")["spec"]["template"]["spec"]
    }

    fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    /// The names of the secrets that its variables come from.
    fn secrets(&self) -> Vec<&str> {
        let from = self.container()["envFrom"].as_array().into_iter().flatten();
        from.map(|it| it["secretRef"]["name"].as_str().unwrap()).collect()
    }

    /// Fails unless the program takes the settings.
    fn is_taken(&self) {
        let settings = self.of("ConfigMap")["data"]["forebay.toml"].as_str().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), settings).unwrap();
        let checked = Command::new(forebay_binary())
            .env_clear()
            .args(["config", "check", "--config", file.path().to_str().unwrap()])
            .output()
            .unwrap();
        assert!(checked.status.success(), "{settings}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn the_chart_as_it_is_makes_what_it_says_and_nothing_else() {
    let [made, of_its_name] = rendered(&[("blue", json!({})), ("forebay", json!({}))]).try_into().ok().unwrap();
    assert_eq!(made.kinds(), BTreeSet::from(["ConfigMap", "Service", "StatefulSet"]));
    made.is_taken();
    let (set, service) = (made.of("StatefulSet"), made.of("Service"));
    assert_eq!(set["metadata"]["name"], "blue-forebay");
    assert_eq!(of_its_name.of("StatefulSet")["metadata"]["name"], "forebay");
    assert_eq!(set["spec"]["replicas"], 1);
    // Whoever asks the service reaches the pod.
    assert_eq!(set["spec"]["serviceName"], service["metadata"]["name"]);
    assert_eq!(set["spec"]["selector"]["matchLabels"], service["spec"]["selector"]);
    assert_eq!(set["spec"]["template"]["metadata"]["labels"], service["spec"]["selector"]);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], made.container()["ports"][0]["name"]);
    // What is mounted is there.
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut there = names(&made.pod()["volumes"]);
    there.insert(set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"].as_str().unwrap().to_owned());
    assert_eq!(names(&made.container()["volumeMounts"]), there);
    assert_eq!(made.pod()["volumes"][0]["configMap"]["name"], made.of("ConfigMap")["metadata"]["name"]);
    let version = Command::new(forebay_binary()).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap().trim().replace(' ', ":");
    assert_eq!(made.container()["image"], version);
    assert!(made.secrets().is_empty());
    let notes = made.0["notes"].as_str().unwrap();
    assert!(notes.contains("exec blue-forebay-0 --") && notes.contains("No admin password is set"), "{notes}");
}

#[test]
fn each_value_of_the_chart_does_what_it_says() {
    let labels = json!({ "matchLabels": { "a": "b" } });
    let spread = json!([{ "labelSelector": labels, "topologyKey": "kubernetes.io/hostname" }]);
    let values = json!({
        "image": { "repository": "registry.example.com/forebay", "tag": "9.9.9", "pullPolicy": "Always" },
        "imagePullSecrets": [{ "name": "registry" }],
        "config": {
            "celery": ["redis://redis:6379/0", "amqp://rabbitmq:5672//"],
            "retention": "3d",
            "redact": [r"password=\S+", r#"<a&b> "quoted" 'too' \d+"#],
            "json-logs": false,
            "nats-replicas": 3,
        },
        // It looks like a number.
        "existingSecret": "0123",
        "secrets": { "FOREBAY_ADMIN_PASSWORD": "yes: \"it\" # is", "FOREBAY_API_KEY": "12345678901234567890" },
        "persistence": { "size": "3Ti", "storageClass": "fast" },
        "service": { "type": "LoadBalancer", "port": 80, "annotations": { "a": "true" } },
        "ingress": {
            "enabled": true, "className": "nginx", "annotations": { "b": "1" }, "host": "jobs.example.com",
            "tlsSecret": "certificate",
        },
        "resources": { "requests": { "cpu": "2", "memory": "4Gi" }, "limits": { "memory": "8Gi" } },
        "podAnnotations": { "c": "d" },
        "nodeSelector": { "disk": "ssd" },
        "tolerations": [{ "key": "jobs", "operator": "Exists" }],
        "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": spread } },
    });
    let known: BTreeSet<String> = fs::read_to_string(folder().join("values.yaml"))
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, _)| key.to_owned())
        .filter(|key| key.starts_with(|letter: char| letter.is_ascii_lowercase()))
        .collect();
    assert_eq!(values.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), known, "all are set");

    let long = "a-release-whose-name-is-as-long-as-helm-lets-it-be-xx";
    let fewer = json!({ "ingress": { "enabled": true }, "secrets": { "FOREBAY_API_KEY": "12345678" } });
    let [made, few] = rendered(&[(long, values.clone()), ("blue", fewer)]).try_into().ok().unwrap();
    made.is_taken();
    let settings = made.of("ConfigMap")["data"]["forebay.toml"].as_str().unwrap();
    assert!(settings.contains("retention = \"3d\"") && settings.contains("nats-replicas = 3"), "{settings}");
    let container = made.container();
    // A variable would come before a setting; those of address and directory nobody can set.
    let variables: Vec<_> =
        container["env"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["FOREBAY_DATA_DIR", "FOREBAY_LISTEN"]);
    assert_eq!(container["image"], "registry.example.com/forebay:9.9.9");
    assert_eq!((&container["imagePullPolicy"], &container["resources"]), (&json!("Always"), &values["resources"]));
    for name in ["imagePullSecrets", "nodeSelector", "tolerations", "affinity"] {
        assert_eq!(made.pod()[name], values[name]);
    }
    let set = made.of("StatefulSet");
    let name = set["metadata"]["name"].as_str().unwrap();
    // Kubernetes adds eleven characters to make a label of 63 at most.
    assert!(name.len() <= 52 && long.starts_with(name), "{name}");
    assert_eq!(set["spec"]["template"]["metadata"]["annotations"]["c"], "d");
    let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(
        (&claim["storageClassName"], &claim["resources"]["requests"]["storage"]),
        (&json!("fast"), &json!("3Ti"))
    );
    assert_eq!(made.secrets(), ["0123", name]);
    assert_eq!(made.of("Secret")["stringData"], values["secrets"]);
    let service = made.of("Service");
    assert_eq!((&service["spec"]["type"], &service["spec"]["ports"][0]["port"]), (&json!("LoadBalancer"), &json!(80)));
    assert_eq!(service["metadata"]["annotations"], values["service"]["annotations"]);
    let ingress = made.of("Ingress");
    assert_eq!(ingress["metadata"]["annotations"], values["ingress"]["annotations"]);
    assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
    assert_eq!(ingress["spec"]["tls"], json!([{ "hosts": ["jobs.example.com"], "secretName": "certificate" }]));
    let rule = &ingress["spec"]["rules"][0];
    assert_eq!(rule["host"], "jobs.example.com");
    assert_eq!(rule["http"]["paths"][0]["backend"]["service"]["name"], service["metadata"]["name"]);
    assert!(!made.0["notes"].as_str().unwrap().contains("No admin password"));

    assert_eq!(few.kinds(), BTreeSet::from(["ConfigMap", "Ingress", "Secret", "Service", "StatefulSet"]));
    assert_eq!((&few.of("Ingress")["spec"]["tls"], few.secrets()), (&Value::Null, vec!["blue-forebay"]));
    assert_eq!(few.of("Secret")["stringData"]["FOREBAY_API_KEY"], "12345678");
    // Another setting is another pod.
    let sums = |made: &Made| made.of("StatefulSet")["spec"]["template"]["metadata"]["annotations"].clone();
    for sum in ["checksum/config", "checksum/secrets"] {
        assert_ne!(sums(&made)[sum], sums(&few)[sum], "{sum}");
    }
}

#[test]
fn a_value_of_the_chart_that_would_do_nothing_or_something_else_is_refused_by_name() {
    let long_number: Value = serde_json::from_str("12345678901234567890").unwrap();
    for (values, told) in [
        (json!({ "config": { "listen": "0.0.0.0:9000" } }), ["config.listen", "leave it out"]),
        (json!({ "config": { "retention": "3d", "data-dir": "/elsewhere" } }), ["config.data-dir", "leave it out"]),
        (json!({ "secrets": { "FOREBAY_API_KEY": long_number } }), ["secrets.FOREBAY_API_KEY", "quote it"]),
        (json!({ "secrets": { "FOREBAY_ADMIN_PASSWORD": true } }), ["secrets.FOREBAY_ADMIN_PASSWORD", "quote it"]),
    ] {
        let output = of_helm(&[("blue", values.clone())]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.iter().all(|told| error.contains(told)), "{values}: {error}");
    }
}
