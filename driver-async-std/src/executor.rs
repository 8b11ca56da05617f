//! Executor of a node's task, which is all that differs between async-std and smol.

/// Runs a task. Where both features are on it is async-std's executor that does: a feature adds calls, and changes none.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(feature = "async-std")]
    drop(async_std::task::spawn(task));
    #[cfg(all(feature = "smol", not(feature = "async-std")))]
    smol::spawn(task).detach();
}
