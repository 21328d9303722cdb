//! The lcai_* JSON-RPC namespace and its subscriptions
