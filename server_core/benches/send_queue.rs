//! The cost that a session's queue adds to each packet.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use server_core::SendBuffer;
use server_core::buffer::queue::{MAX_SLICES, SendQueue};
use server_core::buffer::{ChunkPool, SendBufferManager};
use std::io::IoSlice;
use std::time::{Duration, Instant};

const PACKET_BYTES: usize = 64;

fn main() {
    divan::main();
}

/// A socket that takes everything: the bench queues the packets of a turn, gathers, advances and settles. The
/// packets are neighbours in one chunk.
#[divan::bench(args = [1, 10, 100])]
fn neighbours_taken_whole(bencher: Bencher<'_, '_>, packets: usize) {
    let manager = manager();
    take_whole(bencher, &buffers(packets, |_| &manager));
}

/// As above, with packets from two chunks by turns. Packets are not neighbours, so each has its own slice.
#[divan::bench(args = [2, 10, 50])]
fn strangers_taken_whole(bencher: Bencher<'_, '_>, packets: usize) {
    let managers = [manager(), manager()];
    take_whole(bencher, &buffers(packets, |n| &managers[n % 2]));
}

/// A peer that takes half of the bytes in the turn that queued them, and the rest in the next turn. The queue
/// copies the rest out of the chunk.
#[divan::bench(args = [1, 10, 100])]
fn half_taken(bencher: Bencher<'_, '_>, packets: usize) {
    let manager = manager();
    let buffers = buffers(packets, |_| &manager);
    let (mut queue, mut now) = (SendQueue::default(), Instant::now());
    bencher.counter(ItemsCount::new(packets)).bench_local(|| {
        push_all(&mut queue, &buffers);
        let bytes = queue.queued_bytes();
        for count in [bytes / 2, bytes - bytes / 2] {
            gather(&queue);
            queue.advance(count);
            now += Duration::from_millis(1);
            queue.settle(now);
        }
        assert_eq!(queue.queued_packets(), 0);
    });
}

fn take_whole(bencher: Bencher<'_, '_>, buffers: &[SendBuffer]) {
    let (mut queue, now) = (SendQueue::default(), Instant::now());
    bencher
        .counter(ItemsCount::new(buffers.len()))
        .bench_local(|| {
            push_all(&mut queue, buffers);
            gather(&queue);
            assert_eq!(queue.advance(queue.queued_bytes()), buffers.len());
            queue.settle(now);
        });
}

fn push_all(queue: &mut SendQueue, buffers: &[SendBuffer]) {
    for buffer in black_box(buffers) {
        queue.push(buffer.clone());
    }
}

fn gather(queue: &SendQueue) {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let count = queue.gather(&mut slices, usize::MAX);
    black_box(&slices[..count]);
}

fn manager() -> SendBufferManager {
    SendBufferManager::new(ChunkPool::new(64 << 10, 8))
}

fn buffers<'a>(packets: usize, of: impl Fn(usize) -> &'a SendBufferManager) -> Vec<SendBuffer> {
    (0..packets)
        .map(|n| {
            of(n).write(PACKET_BYTES, |free| {
                free.fill(1);
                free[..2].copy_from_slice(&(PACKET_BYTES as u16).to_le_bytes());
                PACKET_BYTES
            })
        })
        .collect()
}
