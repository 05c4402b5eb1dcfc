//! The speed of the framer, in bytes per second.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use server_core::framer::Framer;

const PACKET_BYTES: [usize; 5] = [16, 64, 256, 1024, 4096];
const STREAM_BYTES: usize = 1 << 20;
const MAX_PACKET_BYTES: usize = 65_535;

fn main() {
    divan::main();
}

/// Reads that hold whole packets: the framer copies nothing.
#[divan::bench(args = PACKET_BYTES)]
fn whole_packets(bencher: Bencher<'_, '_>, packet_bytes: usize) {
    // The bench fills a read buffer of a worker with as many packets as it has room for.
    frame(
        bencher,
        packet_bytes,
        (64 << 10) / packet_bytes * packet_bytes,
    );
}

/// Reads of one TCP segment, which cut packets anywhere: the framer copies the unfinished rest.
#[divan::bench(args = PACKET_BYTES)]
fn cut_by_segments(bencher: Bencher<'_, '_>, packet_bytes: usize) {
    frame(bencher, packet_bytes, 1460);
}

fn frame(bencher: Bencher<'_, '_>, packet_bytes: usize, read_bytes: usize) {
    let packets = STREAM_BYTES / packet_bytes;
    let mut packet = vec![0_u8; packet_bytes];
    packet[..2].copy_from_slice(&(packet_bytes as u16).to_le_bytes());
    packet[2] = 1;
    let stream = packet.repeat(packets);
    bencher
        .counter(BytesCount::new(stream.len()))
        .counter(ItemsCount::new(packets))
        .bench_local(|| {
            let mut framer = Framer::default();
            let mut seen = 0;
            for mut input in black_box(&stream).chunks(read_bytes) {
                while let Ok(Some(packet)) = framer.next_packet(&mut input, MAX_PACKET_BYTES) {
                    black_box(packet.payload());
                    seen += 1;
                }
            }
            assert_eq!(seen, packets);
        });
}
