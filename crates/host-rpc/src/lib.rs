//! Host over any execution client's JSON-RPC and WebSocket
