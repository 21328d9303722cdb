//! A WebSocket's connection that sends what is written together as one piece.
//!
//! jsonrpsee flushes after every message, and a system call per message is most of what a relay costs. So while a
//! WebSocket's reading task waits, a flush wakes that task and does nothing else: once the writing task has written
//! everything it was given, the reading task sends it all. Nothing waits for more to come.
//!
//! It also counts what is read and written against the connection's [`Bounds`], ends a connection whose peer takes
//! nothing for too long, and takes no HTTP/2.

use crate::bounds::Bounds;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Bytes gathered at most; beyond them the writer waits for the peer.
const MAX_GATHERED: usize = 16 * 1024;
/// Bytes read at most of a peer that takes nothing itself: each of its messages is answered, and the answers wait.
const READ_AHEAD: usize = 32 * 1024;
/// How HTTP/2 begins, of which one connection may have any number of requests at once.
const HTTP2: &[u8] = b"PRI ";

/// The connection, for both tasks (they take turns: a lock of the WebSocket's is around it).
pub(crate) struct Gathering<S> {
    stream: S,
    /// Whether it became a WebSocket, and so has a task that always reads.
    upgraded: Arc<AtomicBool>,
    bounds: Arc<Bounds>,
    /// How long the peer may take nothing.
    patience: Duration,
    gathered: Vec<u8>,
    /// The reading task, while it waits.
    reader: Option<Waker>,
    /// Whether the reading task was woken to send.
    due: bool,
    /// A task that waits until the peer takes more.
    writer: Option<Waker>,
    stalled: Option<Stall>,
    /// The peer took nothing for too long: nothing is read or written any more.
    cut: bool,
    /// How much of [`HTTP2`] the connection began with; `None` once it began with something else.
    http2: Option<usize>,
}

/// The peer takes nothing at present.
struct Stall {
    patience: Pin<Box<Sleep>>,
    /// Read of it meanwhile.
    read: usize,
    /// Whether the reading task waits for it to take something.
    held_back: bool,
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Gathers from when `upgraded` is set.
    pub(crate) const fn new(
        stream: S,
        upgraded: Arc<AtomicBool>,
        bounds: Arc<Bounds>,
        patience: Duration,
    ) -> Self {
        Self {
            stream,
            upgraded,
            bounds,
            patience,
            gathered: Vec::new(),
            reader: None,
            due: false,
            writer: None,
            stalled: None,
            cut: false,
            http2: Some(0),
        }
    }

    fn gathers(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Notes what became of a write.
    fn noted(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(count)) => {
                self.bounds.written(count);
                if self.stalled.take().is_some_and(|stall| stall.held_back) {
                    self.wake_reader();
                }
                Poll::Ready(Ok(count))
            }
            Poll::Pending => {
                let patience = self.patience;
                let new = || Stall { patience: Box::pin(sleep(patience)), read: 0, held_back: false };
                ready!(self.stalled.get_or_insert_with(new).patience.as_mut().poll(cx));
                self.cut = true;
                metrics::counter!("lcai_rpc_connections_stalled_total").increment(1);
                self.wake_reader();
                Poll::Ready(Err(timed_out()))
            }
            failed => failed,
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let gathered = std::mem::take(&mut self.gathered);
        let done = loop {
            let rest = gathered.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                break Poll::Ready(Ok(()));
            }
            let wrote = Pin::new(&mut self.stream).poll_write(cx, rest);
            match self.noted(cx, wrote) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        // Idle connections hold no memory.
        if sent < gathered.len() {
            self.gathered = gathered;
            self.gathered.drain(..sent);
        }
        done
    }

    /// Sends for the writing task, which waits if the peer takes no more.
    fn send_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut {
            return Poll::Ready(Err(timed_out()));
        }
        let sent = self.send(cx);
        if sent.is_pending() {
            self.writer = Some(cx.waker().clone());
        }
        sent
    }

    /// Counts what was read.
    fn took(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(stall) = &mut self.stalled {
            stall.read = stall.read.saturating_add(bytes.len());
        }
        if let Some(known) = self.http2 {
            let same = HTTP2.iter().skip(known).zip(bytes).take_while(|(a, b)| a == b).count();
            self.http2 = (same == bytes.len() && known + same < HTTP2.len()).then_some(known + same);
            if known + same == HTTP2.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "HTTP/2 is not served"));
            }
        }
        if self.bounds.read(bytes.len()) {
            return Ok(());
        }
        metrics::counter!("lcai_rpc_requests_without_room_total").increment(1);
        Err(io::Error::new(io::ErrorKind::OutOfMemory, "no room for the request"))
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.due = false;
        if !self.cut && !self.gathered.is_empty() {
            // A failure shows when reading, too.
            let _ = self.send(cx);
            // A stream knows one task that waits to write, and now that is this one.
            if let Some(writer) = self.writer.take() {
                writer.wake();
            }
        }
        if self.cut {
            return Poll::Ready(Err(timed_out()));
        }
        if let Some(stall) = self.stalled.as_mut().filter(|stall| stall.read >= READ_AHEAD) {
            stall.held_back = true;
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.reader = read.is_pending().then(|| cx.waker().clone());
        ready!(read)?;
        Poll::Ready(self.took(buf.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gathers = self.gathers() && buf.len() <= MAX_GATHERED;
        if !gathers || self.gathered.len() + buf.len() > MAX_GATHERED {
            ready!(self.send_now(cx))?;
        }
        if !gathers {
            if self.cut {
                return Poll::Ready(Err(timed_out()));
            }
            let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
            return self.noted(cx, wrote);
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
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.noted(cx, wrote)
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
        if !self.due {
            // The reading task is busy, or there is nothing to send.
            ready!(self.send_now(cx))?;
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        self.bounds.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send_now(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::Pools;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
        task::yield_now,
    };

    fn gathering(near: DuplexStream, patience: Duration) -> Gathering<DuplexStream> {
        let bounds = Arc::new(Bounds::new(&Pools::new(1 << 20, 1 << 20), 1 << 20, 1 << 20));
        Gathering::new(near, Arc::new(AtomicBool::new(true)), bounds, patience)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_read_no_further_and_then_cut() {
        let (near, mut far) = duplex(64 * 1024);
        let (mut reading, mut writing) = split(gathering(near, Duration::from_secs(10)));
        let reader = tokio::spawn(async move {
            let (mut sink, mut read) = (vec![0; 4096], 0);
            loop {
                match reading.read(&mut sink).await {
                    Ok(count) => read += count,
                    Err(error) => return (read, error.kind()),
                }
            }
        });
        let writer = tokio::spawn(async move { writing.write_all(&[7; 200_000]).await.unwrap_err().kind() });
        tokio::time::sleep(Duration::from_secs(1)).await;
        // It talks on while it does not listen.
        let talked = tokio::time::timeout(Duration::from_secs(5), far.write_all(&[1; 200_000])).await;
        assert!(talked.is_err(), "the rest waits with the peer");
        let ((read, error), failed) = (reader.await.unwrap(), writer.await.unwrap());
        assert!((READ_AHEAD..=READ_AHEAD + 4096).contains(&read), "{read}");
        assert_eq!((error, failed), (io::ErrorKind::TimedOut, io::ErrorKind::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_something_now_and_then_is_read_on() {
        let (near, far) = duplex(1024);
        let (mut reading, mut writing) = split(gathering(near, Duration::from_secs(10)));
        let (mut taking, mut talking) = split(far);
        let reader = tokio::spawn(async move {
            let mut all = vec![0; 100_000];
            reading.read_exact(&mut all).await.map(|_| reading)
        });
        let writer = tokio::spawn(async move {
            writing.write_all(&[7; 100_000]).await?;
            writing.flush().await.map(|()| writing)
        });
        let talker = tokio::spawn(async move { talking.write_all(&[1; 100_000]).await.map(|()| talking) });
        let mut part = [0; 1000];
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            taking.read_exact(&mut part).await.unwrap();
        }
        drop((
            reader.await.unwrap().unwrap(),
            writer.await.unwrap().unwrap(),
            talker.await.unwrap().unwrap(),
        ));
    }

    #[tokio::test]
    async fn http2_is_not_read() {
        for pieces in [vec![&b"PRI * HTTP/2.0\r\n"[..]], vec![b"P", b"R", b"I", b" "]] {
            let (near, mut far) = duplex(1024);
            let mut near = gathering(near, Duration::from_secs(10));
            let mut sink = [0; 64];
            let mut read = Ok(0);
            for piece in pieces {
                assert!(read.is_ok());
                far.write_all(piece).await.unwrap();
                read = near.read(&mut sink).await;
            }
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        for other in ["PRIDE / HTTP/1.1", "POST / HTTP/1.1"] {
            let (near, mut far) = duplex(1024);
            let mut near = gathering(near, Duration::from_secs(10));
            far.write_all(other.as_bytes()).await.unwrap();
            assert_eq!(near.read(&mut [0; 64]).await.unwrap(), other.len());
        }
    }

    /// A connection with its reading task, and the peer's end, which holds `room` bytes.
    fn connected(room: usize) -> (tokio::io::WriteHalf<Gathering<DuplexStream>>, DuplexStream) {
        let (near, far) = duplex(room);
        let (mut reading, writing) = split(gathering(near, Duration::from_secs(600)));
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
