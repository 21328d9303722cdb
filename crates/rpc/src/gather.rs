//! A WebSocket's connection that sends what is written together as one piece.
//!
//! jsonrpsee flushes after every message, and a system call per message is most of what a relay costs. So while a
//! WebSocket's reading task waits, a flush wakes that task and does nothing else: once the writing task has written
//! everything it was given, the reading task sends it all. Nothing waits for more to come.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered at most; beyond them the writer waits for the peer.
const MAX_GATHERED: usize = 16 * 1024;

/// The connection, for both tasks (they take turns: a lock of the WebSocket's is around it).
pub(crate) struct Gathering<S> {
    stream: S,
    /// Whether it became a WebSocket, and so has a task that always reads.
    upgraded: Arc<AtomicBool>,
    gathered: Vec<u8>,
    /// The reading task, while it waits.
    reader: Option<Waker>,
    /// Whether the reading task was woken to send.
    due: bool,
    /// A task that waits until the peer takes more.
    writer: Option<Waker>,
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Gathers from when `upgraded` is set.
    pub(crate) const fn new(stream: S, upgraded: Arc<AtomicBool>) -> Self {
        Self { stream, upgraded, gathered: Vec::new(), reader: None, due: false, writer: None }
    }

    fn gathers(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let done = loop {
            let rest = self.gathered.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if sent == self.gathered.len() {
            // Idle connections hold no memory.
            self.gathered = Vec::new();
        } else {
            self.gathered.drain(..sent);
        }
        done
    }

    /// Sends for the writing task, which waits if the peer takes no more.
    fn send_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.send(cx);
        if sent.is_pending() {
            self.writer = Some(cx.waker().clone());
        }
        sent
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.due = false;
        if !self.gathered.is_empty() {
            // A failure shows when reading, too.
            let _ = self.send(cx);
            // A stream knows one task that waits to write, and now that is this one.
            if let Some(writer) = self.writer.take() {
                writer.wake();
            }
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.reader = read.is_pending().then(|| cx.waker().clone());
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gathers = self.gathers() && buf.len() <= MAX_GATHERED;
        if !gathers || self.gathered.len() + buf.len() > MAX_GATHERED {
            ready!(self.send_now(cx))?;
        }
        if !gathers {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        self.gathered.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gathers() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        ready!(self.send_now(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty()
            && let Some(reader) = self.reader.take()
        {
            self.due = true;
            reader.wake();
        }
        if self.due {
            return Poll::Ready(Ok(()));
        }
        // The reading task is busy, or there is nothing to send.
        ready!(self.send_now(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send_now(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
        task::yield_now,
    };

    /// A connection with its reading task, and the peer's end, which holds `room` bytes.
    fn connected(room: usize) -> (tokio::io::WriteHalf<Gathering<DuplexStream>>, DuplexStream) {
        let (near, far) = duplex(room);
        let (mut reading, writing) = split(Gathering::new(near, Arc::new(AtomicBool::new(true))));
        tokio::spawn(async move {
            let mut sink = [0; 64];
            while reading.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        });
        (writing, far)
    }

    #[tokio::test]
    async fn what_is_written_together_arrives_together() {
        let (mut writing, mut far) = connected(1 << 20);
        yield_now().await;
        for _ in 0..3 {
            writing.write_all(b"frame").await.unwrap();
            writing.flush().await.unwrap();
        }
        let mut all = [0; 64];
        assert_eq!(far.read(&mut all).await.unwrap(), 15, "in one piece");
        writing.write_all(b"last").await.unwrap();
        writing.shutdown().await.unwrap();
        assert_eq!(far.read(&mut all).await.unwrap(), 4);
        assert_eq!(far.read(&mut all).await.unwrap(), 0, "then the end");
    }

    /// A peer that takes little at a time, and talks meanwhile, so that both tasks wait to write by turns.
    #[tokio::test]
    async fn everything_arrives_in_order_at_the_peers_pace() {
        let (mut writing, far) = connected(97);
        let sent: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            for (index, part) in sent.chunks(701).enumerate() {
                writing.write_all(part).await.unwrap();
                if index % 3 != 2 {
                    writing.flush().await.unwrap();
                }
            }
            writing.flush().await.unwrap();
            writing
        });
        let (mut taking, mut talking) = split(far);
        let talker = tokio::spawn(async move {
            for _ in 0..2_000 {
                talking.write_all(b"pong").await.unwrap();
                yield_now().await;
            }
            talking
        });
        let mut seen = vec![0; expected.len()];
        taking.read_exact(&mut seen).await.unwrap();
        assert!(seen == expected);
        drop((writer.await.unwrap(), talker.await.unwrap()));
    }
}
