//! A TCP proxy in front of a node that keeps every byte of every WebSocket message, unmasked.

use parking_lot::Mutex;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Everything that passed, both directions.
#[derive(Debug, Clone, Default)]
pub struct Recording(Arc<Mutex<Vec<u8>>>);

impl Recording {
    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().clone()
    }

    fn keep(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}

/// Forwards to `target`, and keeps what passes.
pub async fn record(target: SocketAddr) -> (SocketAddr, Recording) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let recording = Recording::default();
    let kept = recording.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(target).await else { continue };
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            tokio::spawn(forward(client_read, server_write, kept.clone()));
            tokio::spawn(forward(server_read, client_write, kept.clone()));
        }
    });
    (address, recording)
}

/// Forwards one direction: first the HTTP head, then WebSocket messages.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, recording: Recording) {
    let mut pending = Vec::new();
    let mut upgraded = false;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            break;
        }
        pending.extend_from_slice(&buffer[..n]);
        if !upgraded && let Some(end) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            recording.keep(&pending[..end + 4]);
            pending.drain(..end + 4);
            upgraded = true;
        }
        while upgraded && let Some((message, used)) = frame(&pending) {
            recording.keep(&message);
            pending.drain(..used);
        }
    }
    let _ = to.shutdown().await;
    recording.keep(&pending);
}

/// The payload of the first whole WebSocket frame (RFC 6455, section 5.2), unmasked, and the bytes it took.
fn frame(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let second = *bytes.get(1)?;
    let (length, mut at) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize, 10),
        short => (usize::from(short), 2),
    };
    let mask: Option<[u8; 4]> = if second & 0x80 != 0 {
        let mask = bytes.get(at..at + 4)?.try_into().unwrap();
        at += 4;
        Some(mask)
    } else {
        None
    };
    let mut payload = bytes.get(at..at + length)?.to_vec();
    if let Some(mask) = mask {
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    Some((payload, at + length))
}

#[cfg(test)]
mod tests {
    use super::frame;

    /// The examples of RFC 6455, section 5.7.
    #[test]
    fn frames_of_the_rfc() {
        let plain = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(frame(&plain), Some((b"Hello".to_vec(), 7)));
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(frame(&masked), Some((b"Hello".to_vec(), 11)));
        assert_eq!(frame(&masked[..10]), None);
    }
}
