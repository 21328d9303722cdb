//! Logs go to standard error, so that standard output holds answers only.

use tracing_subscriber::EnvFilter;

/// Starts logging. The filter is the flag's, else `RUST_LOG`'s, else warnings.
pub fn init(filter: Option<&str>) {
    let filter = match filter {
        Some(filter) => EnvFilter::new(filter),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
    };
    // A second start, as in tests, keeps the first one's settings.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
