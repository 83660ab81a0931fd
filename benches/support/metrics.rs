//! Scrape of a provider's metrics.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
};

/// Returns a free TCP address.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Series of a scrape with their values.
#[derive(Clone, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Scrapes `/metrics` at an address.
    pub async fn scrape(address: SocketAddr) -> Self {
        let (status, text) =
            crate::support::http::send_for_text("GET", &format!("http://{address}/metrics"), None, None, None).await;
        assert!(status.is_success(), "{status}: {text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        Self(series.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    /// Returns the sum of the series with this name, without the `vaultmount_` prefix, and all these labels.
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
