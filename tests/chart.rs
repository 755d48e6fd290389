//! The chart of `deploy/helm`: each set of values of its folder `ci` renders, every manifest is one that
//! Kubernetes takes, and the real server takes the settings.
//!
//! `scripts/install-deployment chart` puts the tools into `.cache/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, KeyPair};
use tokio::process::Command;

use crate::{
    consumers::{Printed, installed_by, print},
    executables::executable,
    tidy::sources::root,
};

/// A tool of the chart's checks.
fn installed(path: &str) -> Option<PathBuf> {
    installed_by("scripts/install-deployment", path)
}

/// The oldest version of Kubernetes that the chart allows, and the newest that the tools know.
const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];
/// The place of the files of Secrets in a pod.
const SECRETS: &str = "/run/secrets/tillwatch";
/// The folder of the journal in a pod.
const JOURNAL: &str = "/var/lib/tillwatch";

fn chart() -> PathBuf {
    root().join("deploy/helm/tillwatch")
}

/// The sets of values, by the names of their files.
fn sets() -> Vec<String> {
    let files = fs::read_dir(chart().join("ci")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    names
}

/// Runs helm over the chart with a set of values and more arguments.
async fn helm(helm: &Path, command: &[&str], set: &str, more: &[&str]) -> Printed {
    let mut helm = Command::new(helm);
    helm.args(command)
        .arg(chart())
        .arg("--values")
        .arg(chart().join("ci").join(set))
        .args(more);
    print(&mut helm).await
}

async fn rendered(tool: &Path, set: &str, version: &str, more: &[&str]) -> Printed {
    let template = ["template", "till", "--kube-version", version];
    helm(tool, &template, set, more).await
}

#[tokio::test]
async fn the_chart_renders_what_kubernetes_and_the_server_take_for_each_set_of_values() {
    let (Some(tool), Some(python)) = (installed("bin/helm"), installed("chart/bin/python")) else {
        return;
    };
    for set in sets() {
        let linted = helm(&tool, &["lint", "--strict"], &set, &[]).await;
        assert!(linted.success, "{set}: {}{}", linted.out, linted.err);
        for version in VERSIONS {
            let folder = tempfile::tempdir().unwrap();
            let manifests = rendered(&tool, &set, version, &[]).await;
            assert!(manifests.success, "{set}: {}", manifests.err);
            let path = folder.path().join("manifests.yaml");
            fs::write(&path, manifests.out).unwrap();
            let (minor, _) = version.rsplit_once('.').unwrap();
            let mut validate = Command::new(&python);
            validate
                .arg(root().join("tests/chart.py"))
                .arg(&path)
                .arg(minor)
                .arg(folder.path());
            let valid = print(&mut validate).await;
            assert!(valid.success, "{set}, {version}: {}", valid.err);
            for kind in [
                "ConfigMap",
                "NetworkPolicy",
                "PodDisruptionBudget",
                "ServiceAccount",
            ] {
                assert!(valid.out.contains(kind), "{set}: no {kind}: {}", valid.out);
            }
            take_settings(&set, folder.path()).await;
        }
    }
}

/// Lets the real server check the settings of a rendered chart, with files of this test in place of
/// the pod's.
async fn take_settings(set: &str, folder: &Path) {
    let secrets = folder.join("secrets");
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["tillwatch.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    for path in fs::read_to_string(folder.join("files")).unwrap().lines() {
        let content = match path.rsplit_once('/').unwrap().1 {
            "tls.key" => key.serialize_pem(),
            name if name.ends_with(".crt") || name == "ca_file" => certificate.clone(),
            "url" => "postgres://tillwatch@localhost/tillwatch".to_owned(),
            _ => "a secret".to_owned(),
        };
        let path = secrets.join(path.strip_prefix(SECRETS).unwrap().trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let config = folder.join("tillwatch.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text
        .replace(SECRETS, &secrets.display().to_string())
        .replace(JOURNAL, &folder.display().to_string());
    fs::write(&config, text).unwrap();
    let mut check = Command::new(executable("tillwatch-server"));
    check
        .env_clear()
        .args(["check-config", "--config"])
        .arg(&config);
    let checked = print(&mut check).await;
    assert!(checked.success, "{set}: {}", checked.err);
}

#[tokio::test]
async fn the_chart_refuses_values_that_cannot_work_and_names_the_rule() {
    let Some(tool) = installed("bin/helm") else {
        return;
    };
    let table: [(&[&str], &str); 11] = [
        (
            &["drain.seconds=34"],
            "terminationGracePeriodSeconds is 40 and must be at least 44",
        ),
        (
            &["settings.accounts.carbon-main.secret_key=x"],
            "secret_key",
        ),
        (&["settings.listen.grpc=0.0.0.0:1"], "grpc"),
        (&["settings.callers=null"], "at least one caller"),
        (
            &["settings.callers.shop.anonymous=true"],
            "an anonymous caller is refused",
        ),
        (&["secrets[0].account=other"], "no account other"),
        (&["tls.clientCa=true"], "tls.clientCa needs tls.secret"),
        (
            &["journal=postgresql"],
            "postgresql.secret must name the Secret",
        ),
        (&["postgresql.replicas=0"], "replicas"),
        (&["settings.store.url_file=/url"], "url_file"),
        // With SQLite there is no number of pods to set.
        (&["replicas=2"], "replicas"),
    ];
    for (values, rule) in table {
        let mut more = Vec::new();
        for value in values {
            more.extend(["--set", value]);
        }
        let refused = rendered(&tool, "least-values.yaml", VERSIONS[0], &more).await;
        assert!(!refused.success, "{values:?} is taken");
        assert!(refused.err.contains(rule), "{values:?}: {}", refused.err);
    }
    // The least that adds up is taken.
    let least = rendered(
        &tool,
        "least-values.yaml",
        VERSIONS[0],
        &["--set", "drain.seconds=30"],
    );
    let least = least.await;
    assert!(least.success, "{}", least.err);
}

/// Several pods share a database, and each upgrade drains one of them after the other.
#[tokio::test]
async fn the_charts_pods_on_postgresql_share_a_database_and_leave_one_by_one() {
    let Some(tool) = installed("bin/helm") else {
        return;
    };
    let set = ["--set", "postgresql.replicas=4"];
    let printed = rendered(&tool, "postgresql-values.yaml", VERSIONS[0], &set).await;
    for line in [
        "kind: Deployment\n",
        "  replicas: 4\n",
        "      maxSurge: 1\n",
        "      maxUnavailable: 0\n",
        "  minReadySeconds: 5\n",
        "kind: PodDisruptionBudget\n",
        "  maxUnavailable: 1\n",
        "topologyKey: topology.kubernetes.io/zone\n",
        "topologyKey: kubernetes.io/hostname\n",
        "          preStop:\n",
        "store.url_file = \"/run/secrets/tillwatch/store/url\"\n",
        "path: store/ca.crt\n",
    ] {
        assert!(printed.out.contains(line), "{line}: {}", printed.out);
    }
    for line in [
        "TILLWATCH_",
        "PersistentVolume",
        "volumeClaimTemplates",
        "postgres://",
    ] {
        assert!(!printed.out.contains(line), "{line}: {}", printed.out);
    }
}

/// Each of these lines keeps a right from the pod.
#[tokio::test]
async fn the_charts_pod_has_no_right_that_it_does_not_need() {
    let Some(tool) = installed("bin/helm") else {
        return;
    };
    for set in sets() {
        let manifests = rendered(&tool, &set, VERSIONS[0], &[]).await.out;
        for line in [
            "runAsNonRoot: true",
            "runAsUser: 65532",
            "readOnlyRootFilesystem: true",
            "allowPrivilegeEscalation: false",
            "drop: [\"ALL\"]",
            "type: RuntimeDefault",
            "automountServiceAccountToken: false",
            "enableServiceLinks: false",
        ] {
            assert!(manifests.contains(line), "{set}: {line}");
        }
        let owners = manifests.matches("kind: StatefulSet").count();
        let is_sqlite = !set.starts_with("postgresql");
        assert_eq!(owners, usize::from(is_sqlite), "{set}");
        if is_sqlite {
            assert!(manifests.contains("\n  replicas: 1\n"), "{set}: one owner");
        }
    }
}

/// The chart has the dashboards and the alert rules of `deploy` by links to their folders, as soon as
/// they are there, and refuses to promise them before.
#[tokio::test]
async fn the_chart_passes_on_the_dashboards_and_alert_rules_that_are_there() {
    let Some(tool) = installed("bin/helm") else {
        return;
    };
    for (folder, key, kind) in [
        ("grafana", "dashboards.enabled=true", "-dashboards"),
        (
            "prometheus",
            "prometheusRule.enabled=true",
            "PrometheusRule",
        ),
    ] {
        let there = root().join("deploy").join(folder).is_dir();
        let link = chart().join(folder);
        let target = Path::new("../..").join(folder);
        assert_eq!(
            fs::read_link(&link).ok(),
            there.then_some(target),
            "{link:?}"
        );
        let set = ["--set", key];
        let printed = rendered(&tool, "least-values.yaml", VERSIONS[0], &set).await;
        assert_eq!(printed.success, there, "{folder}: {}", printed.err);
        assert!(
            there || printed.err.contains("this chart has no"),
            "{}",
            printed.err
        );
        assert_eq!(printed.out.contains(kind), there, "{folder}");
    }
}
