//! What a release is: the archive and the Debian package, made of the binary under test, unpacked and used.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use forebay_tests::{forebay_binary, python};
use serde_json::Value;
use tempfile::TempDir;

const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The nats-server that stands beside the binary, or on the `PATH`.
fn nats_server() -> PathBuf {
    let beside = forebay_binary().with_file_name("nats-server");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(beside).chain(std::env::split_paths(&path).map(|dir| dir.join("nats-server")));
    found.into_iter().find(|file| file.is_file()).expect("nats-server is missing: run `make test-tools`")
}

/// Has `dist.py` make this, in a directory of its own.
fn made(what: &str) -> TempDir {
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(python());
    command.arg(root().join("crates/forebay/packaging/dist.py")).args([
        what,
        "--target",
        TARGET,
        "--compression",
        "none",
    ]);
    command.arg("--binary").arg(forebay_binary()).arg("--nats").arg(nats_server()).arg("--out").arg(out.path());
    run(command.env("SOURCE_DATE_EPOCH", "1700000000"));
    run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(out.path()));
    out
}

fn file(dir: &Path, ending: &str) -> PathBuf {
    let found = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    found.into_iter().find(|path| path.to_str().unwrap().ends_with(ending)).unwrap_or_else(|| panic!("no {ending}"))
}

/// What was unpacked works by itself: the program, the server beside it, and the settings to begin with.
fn works(program: &Path, settings: &Path) {
    let forebay = |arguments: &[&str]| {
        let mut command = Command::new(program);
        run(command.env_clear().env("PATH", "/nowhere").args(arguments))
    };
    assert!(forebay(&["--version"]).starts_with("forebay "));
    assert!(forebay(&["config", "check", "--config", settings.to_str().unwrap()]).starts_with("good:"));
    // A connection is kept in the log, by the nats-server beside the program.
    let data = tempfile::tempdir().unwrap();
    let made = forebay(&["connection", "create", "first", "--data-dir", data.path().to_str().unwrap()]);
    assert!(made.contains("sk_live_"), "{made}");
}

#[test]
fn the_archive_is_the_same_each_time_and_works_where_it_is_unpacked() {
    let (one, other) = (made("archive"), made("archive"));
    let packed = file(one.path(), ".tar.gz");
    assert_eq!(fs::read(&packed).unwrap(), fs::read(file(other.path(), ".tar.gz")).unwrap());
    let place = tempfile::tempdir().unwrap();
    run(Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(place.path()));
    let unpacked = file(place.path(), TARGET);
    works(&unpacked.join("forebay"), &unpacked.join("forebay.toml"));

    let listed: Value = serde_json::from_slice(&fs::read(unpacked.join("sbom.cdx.json")).unwrap()).unwrap();
    let names = |listed: &Value| -> BTreeSet<String> {
        let components = listed["components"].as_array().unwrap().iter();
        components.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (&listed["bomFormat"], &listed["metadata"]["component"]["name"]),
        (&"CycloneDX".into(), &"forebay".into())
    );
    for (name, linked) in [("sled", true), ("nats-server", true), ("warp", true), ("proptest", false), ("ureq", true)] {
        assert_eq!(names(&listed).contains(name), linked, "{name}");
    }
    let licences = fs::read_to_string(unpacked.join("THIRD-PARTY.txt")).unwrap();
    assert!(licences.lines().any(|line| line.starts_with("sled 0.34.7: MIT/Apache-2.0")), "{licences}");
}

#[test]
fn the_debian_package_holds_what_it_says_and_works_where_it_is_unpacked() {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        println!("no dpkg-deb here: Debian packages are made on Debian");
        return;
    }
    let out = made("deb");
    let package = file(out.path(), ".deb");
    let field = |name: &str| run(Command::new("dpkg-deb").arg("-f").arg(&package).arg(name)).trim().to_owned();
    assert_eq!((field("Package"), field("Section")), ("forebay".to_owned(), "admin".to_owned()));
    assert!(field("Depends").contains("libc6 (>= 2."), "{}", field("Depends"));
    let place = tempfile::tempdir().unwrap();
    run(Command::new("dpkg-deb").arg("-R").arg(&package).arg(place.path()));
    run(Command::new("md5sum").args(["--check", "--strict", "--quiet", "DEBIAN/md5sums"]).current_dir(place.path()));
    works(&place.path().join("usr/bin/forebay"), &place.path().join("etc/forebay/forebay.toml"));
    let manual = run(Command::new("gzip").arg("-dc").arg(place.path().join("usr/share/man/man1/forebay.1.gz")));
    assert!(manual.contains(".SH EXIT STATUS"), "{manual}");
    for script in ["postinst", "prerm", "postrm"] {
        run(Command::new("sh").arg("-n").arg(place.path().join("DEBIAN").join(script)));
    }
    // What the unit starts is where the package puts it.
    let unit = fs::read_to_string(place.path().join("lib/systemd/system/forebay.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let program = start.split(' ').next().unwrap().trim_start_matches('/');
    assert!(place.path().join(program).exists(), "{start}");
    for conffile in fs::read_to_string(place.path().join("DEBIAN/conffiles")).unwrap().lines() {
        assert!(place.path().join(conffile.trim_start_matches('/')).is_file(), "{conffile}");
    }
}

/// The text files below a folder.
fn texts(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            texts(&path, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((path, text));
        }
    }
}

/// Each word that follows this beginning, as far as it is made of such letters.
fn words<'a>(text: &'a str, beginning: &'a str, letters: fn(char) -> bool) -> impl Iterator<Item = &'a str> {
    let rest = text.match_indices(beginning).map(move |(at, _)| &text[at + beginning.len()..]);
    rest.map(move |rest| &rest[..rest.find(|letter| !letters(letter)).unwrap_or(rest.len())])
}

/// The paths of the keys of a YAML file of plain tables, with dots between.
fn paths(yaml: &str) -> BTreeSet<String> {
    let (mut paths, mut above): (BTreeSet<String>, Vec<(usize, String)>) = Default::default();
    for line in yaml.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let Some((key, _)) = line.trim_start().split_once(':') else { continue };
        let depth = line.len() - line.trim_start().len();
        above.retain(|(its, _)| *its < depth);
        above.push((depth, key.to_owned()));
        paths.insert(above.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join("."));
    }
    paths
}

#[test]
fn what_the_packages_set_is_what_the_program_knows() {
    let example = run(Command::new(forebay_binary()).args(["config", "example"]));
    let keys: BTreeSet<&str> =
        example.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = ")).map(|it| it.0).collect();
    assert!(keys.contains("retention") && keys.contains("api-key"), "{keys:?}");
    let mut variables: BTreeSet<String> = keys.iter().map(|key| key.to_uppercase().replace('-', "_")).collect();
    variables.extend(["CONFIG", "LOG"].map(str::to_owned));
    let mut files = Vec::new();
    texts(&root().join("crates/forebay/packaging"), &mut files);
    let chart = root().join("crates/forebay/packaging/helm/forebay");
    let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let known = paths(&values);
    for (path, text) in &files {
        for variable in words(text, "FOREBAY_", |letter| letter.is_ascii_uppercase() || letter == '_') {
            // `FOREBAY_*` stands for all of them.
            assert!(variable.is_empty() || variables.contains(variable), "FOREBAY_{variable} in {}", path.display());
        }
        for value in words(text, ".Values.", |letter| letter.is_ascii_alphanumeric() || letter == '.') {
            assert!(known.contains(value), ".Values.{value} in {}", path.display());
        }
    }
    // What the chart shows of `config` and what the package brings are keys.
    let shown = values.split("config: {}\n").nth(1).unwrap().lines().map_while(|line| line.strip_prefix("#  "));
    let shown: Vec<&str> = shown.filter_map(|line| line.split_once(": ")).map(|(key, _)| key).collect();
    assert!(shown.len() > 1 && shown.iter().all(|key| keys.contains(key)), "{shown:?}");
    // The program of the chart is that of this workspace.
    let version = run(Command::new(forebay_binary()).arg("--version"));
    let version = version.trim().strip_prefix("forebay ").unwrap();
    assert!(
        fs::read_to_string(chart.join("Chart.yaml")).unwrap().contains(&format!("appVersion: \"{version}\"")),
        "{version}"
    );
}
