//! What is logged by the daemons of this process, as long as a test runs on one thread.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{subscriber, subscriber::DefaultGuard};

use super::clock::leap;

/// The lines since it was made.
pub struct Log {
    lines: Lines,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn new() -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        Self { lines, _guard: subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap()
    }

    /// How many lines say something.
    pub fn count(&self, what: &str) -> usize {
        self.text().lines().filter(|line| line.contains(what)).count()
    }

    /// Lets time pass by these steps until so many lines say something. What reads files takes time that does not leap.
    pub async fn says(&self, what: &str, times: usize, step: Duration) {
        let begun = std::time::Instant::now();
        while self.count(what) < times {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what:?} is not said: {}", self.text());
            leap(step).await;
            settle().await;
        }
    }
}

/// Gives what runs in the background the time of the machine, not of the clock.
pub async fn settle() {
    let until = Instant::now() + Duration::from_millis(50);
    tokio::time::sleep_until(until).await;
}
