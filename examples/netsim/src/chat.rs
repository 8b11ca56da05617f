//! A chat, for any stream and any clock: a program that knows nothing of simulations.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

/// Says its lines, each after a pause, and returns what it hears until the other end has nothing more to say.
///
/// # Errors
/// Fails as the stream does.
pub async fn chat(
    stream: impl AsyncRead + AsyncWrite,
    lines: &[&str],
    pause: impl AsyncFn(),
) -> std::io::Result<Vec<String>> {
    let (reader, mut writer) = tokio::io::split(stream);
    let say = async {
        for line in lines {
            pause().await;
            writer.write_all(format!("{line}\n").as_bytes()).await?;
        }
        writer.shutdown().await
    };
    let hear = async {
        let (mut heard, mut lines) = (Vec::new(), BufReader::new(reader).lines());
        while let Some(line) = lines.next_line().await? {
            heard.push(line);
        }
        std::io::Result::Ok(heard)
    };
    let ((), heard) = tokio::try_join!(say, hear)?;
    Ok(heard)
}
