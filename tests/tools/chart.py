"""Has Helm lint and render a chart, and holds what comes of it against the schemas of Kubernetes.

    chart.py CHART < cases.json

Of each case `{"release": NAME, "values": {...}}` it writes what Helm made, as JSON: `notes`, and `objects`, each as it
stands in the file. It ends with a line that says what is wrong, and with which, where anything is: what Helm's linter
finds, what is no YAML, and what a cluster of any version from the oldest to the newest known would refuse.
"""

import json
import sys

import helm_python as helm
import kubernetes_validate
import yaml

# The oldest that a provider still gives for money, and the newest that is known here.
VERSIONS = ["1.27.0", kubernetes_validate.latest_version()]
# It has no picture.
TOLERATED = {"icon is recommended"}


class UniqueKeys(yaml.SafeLoader):
    """A key that comes twice is a mistake of a template."""


def mapping(loader, node):
    keys = [key.value for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.YAMLError(f"twice in one place: {', '.join(sorted(twice))}")
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def made(chart, folder, release, values):
    report = helm.lint(folder, values, strict=True)
    findings = [it["error"] for it in report["messages"] if it["error"] not in TOLERATED] + report["errors"]
    if findings:
        raise SystemExit(f"Helm's linter says of {values}: {'; '.join(findings)}")
    notes, objects = "", []
    for path, text in chart.render(values, name=release, namespace="jobs").items():
        if path.endswith("NOTES.txt"):
            notes = text
            continue
        try:
            objects += [it for it in yaml.load_all(text, UniqueKeys) if it is not None]
        except yaml.YAMLError as error:
            raise SystemExit(f"{path} of {values} is no YAML: {error}\n{text}") from error
    for it in objects:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(it, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = ".".join(map(str, error.absolute_path))
                kind, wrong = it["kind"], error.message
                raise SystemExit(f"Kubernetes {version} refuses {kind} of {values}: {place}: {wrong}") from error
    return {"notes": notes, "objects": objects}


def main():
    (folder,) = sys.argv[1:]
    with helm.Chart.load(folder) as chart:
        cases = json.load(sys.stdin)
        json.dump([made(chart, folder, it["release"], it["values"]) for it in cases], sys.stdout)


if __name__ == "__main__":
    main()
