//! The cost of a packet in shared memory: to write it, and to drop it. The bench compares a chunk of the pool
//! with the two usual ways.

use bytemuck::{Pod, Zeroable};
use bytes::{BufMut, Bytes, BytesMut};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use server_core::PacketHead;
use server_core::buffer::{ChunkPool, SendBufferManager};
use server_core::wire::U64Le;
use std::cell::RefCell;
use std::sync::Arc;

/// The tail of a packet, which follows a header of four bytes and a head of eight bytes.
const TAIL_BYTES: [usize; 3] = [52, 244, 988];
const THREADS: [usize; 2] = [1, 2];
/// The number of packets that are held at a time, as the packets of a turn are.
const PACKETS: usize = 64;

fn main() {
    divan::main();
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Head {
    number: U64Le,
}

impl PacketHead for Head {
    const ID: u16 = 1;
}

#[divan::bench(args = TAIL_BYTES, threads = THREADS)]
fn chunk_pool(bencher: Bencher<'_, '_>, tail_bytes: usize) {
    let manager = SendBufferManager::new(ChunkPool::new(64 << 10, 64));
    let head = Head { number: 7.into() };
    hold(bencher, tail_bytes, |tail| manager.encode(&head, tail));
}

/// One block for many packets as well. Each packet is split off the block, and the block is used again when all
/// of its packets are gone.
#[divan::bench(args = TAIL_BYTES, threads = THREADS)]
fn bytes_mut(bencher: Bencher<'_, '_>, tail_bytes: usize) {
    thread_local! {
        static CURRENT: RefCell<BytesMut> = RefCell::default();
    }
    hold(bencher, tail_bytes, |tail| {
        CURRENT.with_borrow_mut(|current| -> Bytes {
            let bytes = 12 + tail.len();
            if current.capacity() < bytes {
                current.reserve(64 << 10);
            }
            current.put_u16_le(bytes as u16);
            current.put_u16_le(Head::ID);
            current.put_u64_le(7);
            current.put_slice(tail);
            current.split().freeze()
        })
    });
}

/// One allocation for each packet, and a second allocation for the vector in which the packet is put together.
#[divan::bench(args = TAIL_BYTES, threads = THREADS)]
fn arc_per_packet(bencher: Bencher<'_, '_>, tail_bytes: usize) {
    hold(bencher, tail_bytes, |tail| -> Arc<[u8]> {
        let bytes = 12 + tail.len();
        let mut packet = Vec::with_capacity(bytes);
        packet.put_u16_le(bytes as u16);
        packet.put_u16_le(Head::ID);
        packet.put_u64_le(7);
        packet.put_slice(tail);
        packet.into()
    });
}

/// Makes the packets of a turn, then drops all of them.
fn hold<T>(bencher: Bencher<'_, '_>, tail_bytes: usize, make: impl Fn(&[u8]) -> T + Sync) {
    let tail = vec![1_u8; tail_bytes];
    // The list has the same memory in all three benches, allocated outside of the measurement.
    bencher
        .counter(ItemsCount::new(PACKETS))
        .with_inputs(|| Vec::with_capacity(PACKETS))
        .bench_refs(|held: &mut Vec<T>| {
            held.extend((0..PACKETS).map(|_| make(black_box(&tail))));
            black_box(&held);
            held.clear();
        });
}
