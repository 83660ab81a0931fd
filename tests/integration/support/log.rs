//! The log of the daemons in this process, as long as a test runs on one thread.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{subscriber, subscriber::DefaultGuard};

use super::clock::advance;

/// The lines since the capture began.
pub struct CapturedLog {
    buffer: LogBuffer,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl CapturedLog {
    pub fn new() -> Self {
        let lines = LogBuffer::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        Self { buffer: lines, _guard: subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.buffer.0.lock().unwrap().clone()).unwrap()
    }

    /// Returns the number of lines that contain `needle`.
    pub fn count_lines(&self, needle: &str) -> usize {
        self.text().lines().filter(|line| line.contains(needle)).count()
    }

    /// Advances the clock in steps until this many lines contain `needle`. File reads take real time, which does not
    /// advance.
    pub async fn wait_for_lines(&self, needle: &str, times: usize, step: Duration) {
        let begun = std::time::Instant::now();
        while self.count_lines(needle) < times {
            assert!(begun.elapsed() < Duration::from_secs(10), "{needle:?} is not said: {}", self.text());
            advance(step).await;
            let_background_run().await;
        }
    }
}

/// Gives background tasks real time, without advancing the clock.
pub async fn let_background_run() {
    let until = Instant::now() + Duration::from_millis(50);
    tokio::time::sleep_until(until).await;
}
