//! Two nodes over a real Redis with TLS. Needs the program redis-server, built with TLS.

use crate::util::recorder::{Running, builder, numbered, start};
use rcgen::generate_simple_self_signed;
use server_core::TlsClientConfig;
use server_core::cluster::Cluster;
use server_core::testing::{Redis, wait_until};
use std::fs;
use std::io;
use std::path::PathBuf;

/// A certificate for localhost with its key, in a folder that the drop removes.
struct Certificate(PathBuf);

impl Certificate {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("cluster-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let pair = generate_simple_self_signed(["localhost".into()]).unwrap();
        fs::write(folder.join("cert.pem"), pair.cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
        Self(folder)
    }

    fn trust(&self) -> TlsClientConfig {
        TlsClientConfig::with_ca_file(self.0.join("cert.pem")).unwrap()
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn node(redis: &Redis, trust: TlsClientConfig) -> (Running, Cluster) {
    let server = start(builder());
    let cluster = Cluster::builder(redis.url()).tls(trust);
    let cluster = cluster.start(&server.server.handle()).unwrap();
    (server, cluster)
}

#[test]
fn nodes_meet_over_tls_and_other_certificates_are_not_trusted() {
    let certificate = Certificate::new("tls");
    let (cert, key) = (
        certificate.0.join("cert.pem"),
        certificate.0.join("key.pem"),
    );
    let Some(redis) = Redis::start_tls(&cert, &key) else {
        return;
    };
    let (server, first) = node(&redis, certificate.trust());
    let (_other_server, second) = node(&redis, certificate.trust());
    let other = Certificate::new("other");
    let (_stranger, distrustful) = node(&redis, other.trust());
    for cluster in [&first, &second] {
        wait_until("both nodes", || cluster.nodes().nodes.len() == 2);
        assert!(cluster.nodes().is_link_up);
    }
    // Larger than a record of TLS.
    let packet = server.server.handle().encode(&numbered(0, 0), [7; 30_000]);
    let packet = packet.unwrap();
    // Several at once, 90 kB: the reader gets records that are not complete. The mailbox of a worker takes 256 KiB of
    // other nodes.
    for count in 1..=10 {
        for _ in 0..3 {
            first.broadcast_elsewhere(&packet);
        }
        wait_until("the packets", || {
            second.metrics().received.get() == 3 * count
        });
    }
    wait_until("the confirmations", || {
        first.metrics().published.get() == 30
    });
    assert!(!distrustful.nodes().is_link_up);
    assert_eq!(distrustful.metrics().connects.get(), 0);
}

#[test]
fn tls_of_url_and_certificates_have_to_agree() {
    let server = start(builder());
    let certificate = Certificate::new("agree");
    let refused = |cluster: server_core::cluster::ClusterBuilder| {
        let error = cluster.start(&server.server.handle()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        error.to_string()
    };
    let text = refused(Cluster::builder("rediss://localhost:1/"));
    assert!(text.contains("ClusterBuilder::tls"), "{text}");
    let plain = Cluster::builder("redis://localhost:1/").tls(certificate.trust());
    let text = refused(plain);
    assert!(text.contains("not rediss://"), "{text}");
}
