//! Tasks that a process may start in very large numbers.

use tokio::task::JoinHandle;

/// Spawns a task with its state in a separate heap allocation.
///
/// A task is aligned to 128 bytes, and the C library's allocator hardly ever reuses aligned memory. Each large task left a hole
/// of its size (measured with glibc 2.36: 20 MB after a thousand mounts).
pub fn spawn_boxed<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(Box::pin(future))
}
