//! Reading all that is there before it is written: records are 16 KiB, and a write for each costs more than its cipher.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, ReadBuf};

/// A reader that fills buffers as far as it can without waiting.
#[derive(Debug)]
pub(crate) struct Gather<R> {
    from: R,
    /// End or error that cut the last buffer short, to be returned after it.
    end: Option<io::Result<()>>,
}

impl<R: AsyncRead + Unpin> Gather<R> {
    pub(crate) fn new(from: R) -> Self {
        Gather { from, end: None }
    }

    /// Waits until something is there, and gives all that is there then: how many bytes, 0 at the end.
    ///
    /// # Errors
    /// Those of reading, after the bytes that came before.
    pub(crate) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut n = 0;
        poll_fn(|cx| {
            while n < into.len() {
                if let Some(end) = self.end.take() {
                    if n > 0 {
                        self.end = Some(end);
                        break;
                    }
                    return Poll::Ready(end.map(|()| 0));
                }
                let mut space = ReadBuf::new(&mut into[n..]);
                match Pin::new(&mut self.from).poll_read(cx, &mut space) {
                    Poll::Ready(Ok(())) if space.filled().is_empty() => self.end = Some(Ok(())),
                    Poll::Ready(Ok(())) => n += space.filled().len(),
                    Poll::Ready(Err(why)) => self.end = Some(Err(why)),
                    Poll::Pending if n == 0 => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(n))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_is_there_comes_at_once_and_the_end_after_it() {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut gather = Gather::new(far);
        for piece in [&b"abc"[..], b"d", b"efg"] {
            near.write_all(piece).await.unwrap();
        }
        let mut buffer = [0; 16];
        assert_eq!(gather.read(&mut buffer).await.unwrap(), 7);
        assert_eq!(&buffer[..7], b"abcdefg");
        near.write_all(b"0123456789abcdefXYZ").await.unwrap();
        assert_eq!(gather.read(&mut buffer).await.unwrap(), 16);
        drop(near);
        assert_eq!(gather.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(gather.read(&mut buffer).await.unwrap(), 0);
    }
}
