//! The idiomatic server on tokio: a broadcast channel, a task for each connection, and
//! `LengthDelimitedCodec` configured for this protocol. A task that falls behind the channel ends.

use bench::server::{ServerArgs, listen};
use bench::wire::{C_CHAT, C_ECHO, S_CHAT, S_ECHO, tick_packets};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use std::io;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, Sender};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Number of packets that a task may be behind the channel.
const CHANNEL: usize = 1024;

fn main() -> io::Result<()> {
    let args = ServerArgs::from_command_line();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.workers)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // The loop runs on a worker: in `block_on` it would have a thread of its own, and one more hop.
        let serving = tokio::spawn(serve(args));
        serving.await.unwrap_or_else(|error| Err(error.into()))
    })
}

async fn serve(args: ServerArgs) -> io::Result<()> {
    let listener = TcpListener::from_std(listen(args.addr)?)?;
    let (to_all, _) = broadcast::channel(CHANNEL);
    if args.tick_ms > 0 {
        tokio::spawn(tick(args, to_all.clone()));
    }
    for id in 1.. {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let to_all = to_all.clone();
        tokio::spawn(async move {
            if let Err(error) = session(id, stream, to_all).await {
                log::debug!("session {id}: {error}");
            }
        });
    }
    Ok(())
}

async fn tick(args: ServerArgs, to_all: Sender<Bytes>) {
    let Some(period) = args.tick_period() else {
        return;
    };
    let tail = args.hello_tail();
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 1.. {
        interval.tick().await;
        for packet in tick_packets(number, &tail, args.packets_per_tick) {
            // The codec writes the size, so the packet has none here. A channel without receivers is not an
            // error.
            let _ = to_all.send(Bytes::from(packet).slice(2..));
        }
    }
}

async fn session(id: u64, stream: TcpStream, to_all: Sender<Bytes>) -> io::Result<()> {
    let mut broadcasts = to_all.subscribe();
    let mut framed: Framed<TcpStream, LengthDelimitedCodec> = LengthDelimitedCodec::builder()
        .little_endian()
        .length_field_type::<u16>()
        // The size field counts its own bytes; the frame begins behind the size field.
        .length_adjustment(-2)
        .max_frame_length(65_535)
        .new_framed(stream);
    loop {
        tokio::select! {
            packet = broadcasts.recv() => {
                framed.send(packet.map_err(io::Error::other)?).await?;
            }
            frame = framed.next() => {
                let Some(frame) = frame.transpose()? else { return Ok(()) };
                let Some((&[low, high], payload)) = frame.split_first_chunk() else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                match u16::from_le_bytes([low, high]) {
                    C_ECHO => framed.send(with_id(S_ECHO, &[], payload)).await?,
                    C_CHAT => {
                        let _ = to_all.send(with_id(S_CHAT, &id.to_le_bytes(), payload));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn with_id(id: u16, head: &[u8], payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(2 + head.len() + payload.len());
    frame.put_u16_le(id);
    frame.put_slice(head);
    frame.put_slice(payload);
    frame.freeze()
}
