//! What a provider counts.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
};

/// An address that nobody listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A scrape: each series and its value.
#[derive(Clone, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// What is told at an address now.
    pub async fn scrape(address: SocketAddr) -> Self {
        let (status, text) =
            crate::support::http::send_for_text("GET", &format!("http://{address}/metrics"), None, None, None).await;
        assert!(status.is_success(), "{status}: {text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        Self(series.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    /// The sum over the series of this name (without what they all begin with) that have all these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Vec<String> = labels.iter().map(|(label, word)| format!("{label}=\"{word}\"")).collect();
        let series = self.0.iter().filter(|(series, _)| {
            let rest = series.strip_prefix("vaultmount_").and_then(|series| series.strip_prefix(name));
            rest.is_some_and(|rest| {
                (rest.is_empty() || rest.starts_with('{')) && labels.iter().all(|l| rest.contains(l))
            })
        });
        series.map(|(_, value)| value).sum()
    }
}
