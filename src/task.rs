//! Tasks of which there may be very many in a process's life.

use tokio::task::JoinHandle;

/// Runs work in a task of its own, whose state is on the heap apart. A task is laid out on a boundary of 128 bytes, and what the
/// C library's allocator gives on a boundary it hardly ever gives again: of each large task a hole of its size was left
/// (measured with glibc 2.36: 20 MB after a thousand mounts).
pub fn spawn_boxed<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(Box::pin(future))
}
