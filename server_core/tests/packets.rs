//! What `packets!` makes: its bytes, what it refuses, and that any value comes back.

use proptest::prelude::*;
use proptest::test_runner::{Config as RunnerConfig, RngSeed, TestRunner};
use server_core::buffer::{ChunkPool, SendBufferManager};
use server_core::packet::{Direction, FromClient, FromServer};
use server_core::wire::{MAX_PACKET_BYTES, U16Le, bytemuck};
use server_core::{
    IncomingPacket, Kick, List, OutgoingPacket, Packet, PacketHead, PacketWriter, WritePart,
};

server_core::packets! {
    /// Fixed fields and text.
    server 1 => SHello { tick: u64 } + text;
    /// Any bytes.
    client 2 => CEcho + bytes;
    /// Text with limits.
    client 4 => CChat + text(1..=512);
    /// One of each number, arrays and a part.
    both 0x0102 => Numbers {
        a: u8,
        b: u16,
        c: u32,
        d: u64,
        e: i8,
        f: i16,
        g: i32,
        h: i64,
        i: f32,
        j: f64,
        k: [u16; 2],
        l: Position,
        m: [Position; 1],
    };
    /// Nothing.
    client 6 => CPing;
    /// Arrays of arrays, and of bytes.
    server 9 => Tiles { rows: [[i16; 2]; 2], key: [u8; 2] };
    /// Fixed fields and bytes with limits.
    client 7 => CBlob { kind: u8 } + bytes(..=3);
    /// Parts of any size.
    both 65535 => Room<'a> {
        room: u32,
        is_open: bool,
        name: &'a str where 1..=16,
        walls: &'a [Position],
        raw: &'a [u8],
        host: Player<'a>,
        players: List<'a, Player<'a>> where ..=100,
        rows: List<'a, List<'a, i16>>,
        spawn: Position,
    };
    /// Fixed.
    part Position { x: i32, y: i16 };
    /// Of any size.
    part Player<'a> { id: u64, name: &'a str, items: List<'a, u16>, speed: f32 };
}

fn encoded(packet: &impl OutgoingPacket) -> Vec<u8> {
    let mut bytes = vec![0xaa; packet.packet_bytes().unwrap()];
    packet.write_packet(&mut bytes);
    bytes
}

fn decoded<P: IncomingPacket>(bytes: &[u8]) -> Result<P::Body<'_>, Kick> {
    let size = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    assert_eq!(size, bytes.len(), "always size, then id, four bytes, first");
    Packet::new(u16::from_le_bytes([bytes[2], bytes[3]]), &bytes[4..]).decode::<P>()
}

fn at(x: i32, y: i16) -> Position {
    Position::new(x, y)
}

// ---- the documented bytes -----------------------------------------------------------------------

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

fn part(part: &(impl WritePart + ?Sized)) -> Vec<u8> {
    let mut buffer = [0; 64];
    let mut writer = PacketWriter::new(&mut buffer);
    writer.write(part);
    let bytes = writer.finish().unwrap();
    buffer[..bytes].to_vec()
}

server_core::packets! {
    client 7 => CStep { x: i32, y: i16 };
    server 1 => STick { tick: u64 } + text;
    client 2 => CAny + bytes;
    server 8 => SNames<'a> { room: u16, names: List<'a, &'a str> };
    part Cell { x: u8, y: i16 };
}

/// The rows of both tables in the documentation of `packets!`.
fn rows() -> Vec<String> {
    macro_rules! types {
        ($($type:literal, $place:literal, $value:expr;)*) => {[$(
            format!(
                "| `{}` | {} | `{}` | `{}` |",
                $type, $place, stringify!($value), hex(&part($value)),
            ),
        )*]};
    }
    macro_rules! packets {
        ($($definition:literal, $value:literal, $bytes:expr;)*) => {[$(
            format!("| `{}` | `{}` | `{}` |", $definition, $value, hex(&$bytes)),
        )*]};
    }
    let cell = Cell::new(1, -2);
    let cells = [cell];
    let step = CStep::new(3, -2);
    let buffers = SendBufferManager::new(ChunkPool::new(4096, 1));
    let tick = buffers.encode(&STick::new(2), b"Hi").unwrap();
    let any = buffers.encode(&CAny, &[1, 2]).unwrap();
    let names = SNames {
        room: 5,
        names: List::of(&["a", "bc"]),
    };
    let types = types! {
        "u8", "all", &0x12_u8;
        "i8", "all", &-2_i8;
        "u16", "all", &0x1234_u16;
        "u32", "all", &0x1234_5678_u32;
        "u64", "all", &0x1234_u64;
        "i16", "all", &-2_i16;
        "i32", "all", &-2_i32;
        "i64", "all", &-2_i64;
        "f32", "all", &1.5_f32;
        "f64", "all", &1.5_f64;
        "part Cell { x: u8, y: i16 }", "all", &cell;
        "bool", "variable", &true;
        "&'a str", "variable", "h\u{e9}";
        "&'a [u8]", "variable", &[1_u8, 2][..];
        "&'a [Cell]", "variable", &cells[..];
        "List<'a, u16>", "variable", &List::of(&[1_u16, 2]);
        "List<'a, &'a str>", "variable", &List::of(&["a", "bc"]);
    };
    let array = format!("| `[u16; 2]` | fixed | `[1, 2]` | `{}` |", {
        hex(bytemuck::bytes_of(&[U16Le::new(1), U16Le::new(2)]))
    });
    let packets = packets! {
        "client 7 => CStep { x: i32, y: i16 }", "x 3, y -2", encoded(&step);
        "server 1 => STick { tick: u64 } + text", "tick 2, \"Hi\"", tick;
        "client 2 => CAny + bytes", "1, 2", any;
        "server 8 => SNames<'a> { room: u16, names: List<'a, &'a str> }", "room 5, [\"a\", \"bc\"]",
            encoded(&names);
    };
    types.into_iter().chain([array]).chain(packets).collect()
}

#[test]
fn documented_bytes_are_those_on_the_wire() {
    let source = include_str!("../src/protocol/packets.rs");
    let (_, section) = source.split_once("# Bytes on the wire").unwrap();
    let (section, _) = section.split_once("/// # ").unwrap();
    let documented: Vec<&str> = (section.lines())
        .filter_map(|line| line.strip_prefix("/// "))
        .filter(|line| line.starts_with("| `"))
        .collect();
    let rows = rows();
    assert_eq!(documented, rows, "right:\n/// {}", rows.join("\n/// "));
}

// ---- golden bytes -------------------------------------------------------------------------------

#[test]
fn fixed_head_has_golden_bytes() {
    let numbers = Numbers {
        a: 1,
        b: 0x0203.into(),
        c: 0x0405_0607.into(),
        d: 0x0809_0a0b_0c0d_0e0f.into(),
        e: -1,
        f: (-2).into(),
        g: (-3).into(),
        h: (-4).into(),
        i: 1.5.into(),
        j: (-0.25).into(),
        k: [1.into(), 2.into()],
        l: at(5, 6),
        m: [at(-1, -1)],
    };
    #[rustfmt::skip]
    let golden = [
        62, 0, 2, 1,
        1,
        3, 2,
        7, 6, 5, 4,
        15, 14, 13, 12, 11, 10, 9, 8,
        255,
        254, 255,
        253, 255, 255, 255,
        252, 255, 255, 255, 255, 255, 255, 255,
        0, 0, 0xc0, 0x3f,
        0, 0, 0, 0, 0, 0, 0xd0, 0xbf,
        1, 0, 2, 0,
        5, 0, 0, 0, 6, 0,
        255, 255, 255, 255, 255, 255,
    ];
    assert_eq!(encoded(&numbers), golden);
    assert_eq!(decoded::<Numbers>(&golden), Ok(&numbers));
    assert_eq!((size_of::<Numbers>(), align_of::<Numbers>()), (58, 1));

    let d = 0x0809_0a0b_0c0d_0e0f;
    #[rustfmt::skip]
    let native = Numbers::new(
        1, 0x0203, 0x0405_0607, d, -1, -2, -3, -4, 1.5, -0.25, [1, 2], at(5, 6), [at(-1, -1)],
    );
    assert_eq!(native, numbers);
    assert_eq!(
        (native.a(), native.b(), native.c(), native.d()),
        (1_u8, 0x0203_u16, 0x0405_0607_u32, d)
    );
    assert_eq!(
        (native.e(), native.f(), native.g(), native.h()),
        (-1_i8, -2_i16, -3_i32, -4_i64)
    );
    assert_eq!((native.i(), native.j()), (1.5_f32, -0.25_f64));
    assert_eq!((native.k(), native.l().y()), ([1_u16, 2], 6));
    assert_eq!(native.m().map(|position| position.x()), [-1]);
}

#[test]
fn arrays_of_arrays_and_of_bytes_are_native_as_well() {
    let tiles = Tiles::new([[1, 2], [3, -4]], [0xab, 0xcd]);
    let golden = [14, 0, 9, 0, 1, 0, 2, 0, 3, 0, 0xfc, 0xff, 0xab, 0xcd];
    assert_eq!(encoded(&tiles), golden);
    let tiles = decoded::<Tiles>(&golden).unwrap();
    assert_eq!(
        (tiles.rows(), tiles.key()),
        ([[1, 2], [3, -4]], [0xab, 0xcd])
    );
}

#[test]
fn variable_parts_have_golden_bytes() {
    let (items, names) = ([7_u16, 8], ["ab", ""]);
    let player = |name| Player {
        id: 1,
        name,
        items: List::of(&items),
        speed: 1.5,
    };
    let (row, players) = ([-1_i16], names.map(player));
    let rows = [List::default(), List::of(&row)];
    let room = Room {
        room: 9,
        is_open: true,
        name: "안",
        walls: &[at(1, 2)],
        raw: &[0xff],
        host: player("h"),
        players: List::of(&players),
        rows: List::of(&rows),
        spawn: at(3, 4),
    };
    #[rustfmt::skip]
    let golden = [
        104, 0, 255, 255,
        9, 0, 0, 0,
        1,
        3, 0, 0xec, 0x95, 0x88,
        1, 0, 1, 0, 0, 0, 2, 0,
        1, 0, 0xff,
        1, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'h', 2, 0, 7, 0, 8, 0, 0, 0, 0xc0, 0x3f,
        2, 0,
            1, 0, 0, 0, 0, 0, 0, 0, 2, 0, b'a', b'b', 2, 0, 7, 0, 8, 0, 0, 0, 0xc0, 0x3f,
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 7, 0, 8, 0, 0, 0, 0xc0, 0x3f,
        2, 0, 0, 0, 1, 0, 255, 255,
        3, 0, 0, 0, 4, 0,
    ];
    assert_eq!(encoded(&room), golden);
    assert_eq!(decoded::<Room<'_>>(&golden), Ok(room));
}

#[test]
fn ids_and_directions_are_those_of_the_table() {
    fn id_of<P: IncomingPacket + Direction<Way>, Way>() -> u16 {
        P::ID
    }
    let ids = [
        id_of::<SHello, FromServer>(),
        id_of::<CEcho, FromClient>(),
        id_of::<CPing, FromClient>(),
        id_of::<Numbers, FromClient>(),
        id_of::<Numbers, FromServer>(),
        id_of::<Room<'_>, FromServer>(),
        id_of::<Room<'_>, FromClient>(),
    ];
    assert_eq!(ids, [1, 2, 6, 0x0102, 0x0102, 65_535, 65_535]);
    assert_eq!((SHello::ID, Room::ID), (1, 65_535));
    assert_eq!(<SHello as PacketHead>::ID, 1);
    assert_eq!(<Room<'_> as OutgoingPacket>::ID, 65_535);
}

// ---- what a peer sends wrong --------------------------------------------------------------------

fn body<P: IncomingPacket>(payload: &[u8]) -> Result<P::Body<'_>, Kick> {
    Packet::new(P::ID, payload).decode::<P>()
}

#[test]
fn fixed_packet_of_another_length_is_refused() {
    let payload = [0; 70];
    for len in 0..payload.len() {
        let is_ok = body::<Numbers>(&payload[..len]).is_ok();
        assert_eq!(is_ok, len == 58, "{len} bytes");
        assert_eq!(body::<CPing>(&payload[..len]).is_ok(), len == 0);
    }
}

#[test]
fn tail_outside_its_limits_is_refused() {
    let (hello, text) = body::<SHello>(b"\x07\0\0\0\0\0\0\0hi").unwrap();
    assert_eq!((hello.tick.get(), text), (7, "hi"));
    assert_eq!(body::<SHello>(&[0; 7]), Err(Kick::BadPayload));
    assert_eq!(body::<SHello>(&[0; 8]).unwrap().1, "");
    assert_eq!(
        body::<SHello>(b"\x07\0\0\0\0\0\0\0\xc3\x28"),
        Err(Kick::BadPayload)
    );

    assert_eq!(body::<CEcho>(b""), Ok(&b""[..]));
    assert_eq!(body::<CEcho>(&[0xff]), Ok(&[0xff][..]));

    assert_eq!(body::<CChat>(b""), Err(Kick::BadPayload));
    assert_eq!(body::<CChat>(b"a"), Ok("a"));
    assert_eq!(body::<CChat>(&[b'a'; 512]).map(str::len), Ok(512));
    assert_eq!(body::<CChat>(&[b'a'; 513]), Err(Kick::BadPayload));
    assert_eq!(body::<CChat>(&[0xc3, 0x28]), Err(Kick::BadPayload));

    assert_eq!(body::<CBlob>(&[1, 2, 3, 4]).unwrap().1, [2, 3, 4]);
    assert_eq!(body::<CBlob>(&[1, 2, 3, 4, 5]), Err(Kick::BadPayload));
}

#[test]
fn packet_of_another_id_is_refused() {
    let packet = Packet::new(SHello::ID, b"text");
    assert_eq!(packet.decode::<CChat>(), Err(Kick::UnknownId));
}

#[test]
fn head_is_read_without_a_copy() {
    let payload = [0; 58];
    let numbers: &Numbers = body::<Numbers>(&payload).unwrap();
    assert!(std::ptr::eq(
        std::ptr::from_ref(numbers).cast(),
        payload.as_ptr()
    ));
}

#[test]
fn field_outside_its_limits_is_refused() {
    let room = |name, players: &[Player<'_>]| {
        let room = Room {
            name,
            players: List::of(players),
            ..an_empty_room()
        };
        let bytes = encoded(&room);
        decoded::<Room<'_>>(&bytes).map(drop)
    };
    let player = Player {
        id: 1,
        name: "",
        items: List::default(),
        speed: 0.0,
    };
    assert_eq!(room("", &[]), Err(Kick::BadPayload));
    assert_eq!(room("0123456789abcdef", &[]), Ok(()));
    assert_eq!(room("0123456789abcdef0", &[]), Err(Kick::BadPayload));
    assert_eq!(room("r", &vec![player.clone(); 100]), Ok(()));
    assert_eq!(room("r", &vec![player; 101]), Err(Kick::BadPayload));
}

fn an_empty_room() -> Room<'static> {
    Room {
        room: 0,
        is_open: false,
        name: "r",
        walls: &[],
        raw: &[],
        host: Player {
            id: 0,
            name: "",
            items: List::default(),
            speed: 0.0,
        },
        players: List::default(),
        rows: List::default(),
        spawn: at(0, 0),
    }
}

#[test]
fn packet_over_65535_bytes_is_an_error_of_the_sender() {
    let rest = MAX_PACKET_BYTES - encoded(&an_empty_room()).len();
    let with = |raw: &[u8]| {
        let room = Room {
            raw,
            ..an_empty_room()
        };
        room.packet_bytes()
    };
    assert_eq!(with(&vec![0; rest]), Ok(MAX_PACKET_BYTES));
    assert_eq!(with(&vec![0; rest + 1]).unwrap_err().bytes, 65_536);
    assert!(with(&vec![0; 70_000]).unwrap_err().bytes > 70_000);
}

// ---- any value, any bytes -----------------------------------------------------------------------

/// A room in memory of its own.
#[derive(Clone, Debug)]
struct OwnRoom {
    numbers: (u32, bool, i32, i16),
    name: String,
    walls: Vec<(i32, i16)>,
    raw: Vec<u8>,
    players: Vec<(u64, String, Vec<u16>, i32)>,
    rows: Vec<Vec<i16>>,
}

fn a_room() -> impl Strategy<Value = OwnRoom> {
    let player = (
        any::<u64>(),
        ".{0,8}",
        prop::collection::vec(any::<u16>(), 0..5),
        any::<i32>(),
    );
    let rows = prop::collection::vec(prop::collection::vec(any::<i16>(), 0..4), 0..4);
    (
        any::<(u32, bool, i32, i16)>(),
        "[a-z]{1,16}",
        prop::collection::vec(any::<(i32, i16)>(), 0..5),
        prop::collection::vec(any::<u8>(), 0..20),
        prop::collection::vec(player, 1..6),
        rows,
    )
        .prop_map(|(numbers, name, walls, raw, players, rows)| OwnRoom {
            numbers,
            name,
            walls,
            raw,
            players,
            rows,
        })
}

impl OwnRoom {
    fn encoded(&self) -> Vec<u8> {
        self.show(|room| encoded(room))
    }

    fn show<T>(&self, look: impl FnOnce(&Room<'_>) -> T) -> T {
        let walls: Vec<_> = self.walls.iter().map(|&(x, y)| at(x, y)).collect();
        let players: Vec<_> = (self.players.iter())
            .map(|(id, name, items, speed)| Player {
                id: *id,
                name,
                items: List::of(items),
                speed: *speed as f32,
            })
            .collect();
        let rows: Vec<_> = self.rows.iter().map(|row| List::of(row)).collect();
        look(&Room {
            room: self.numbers.0,
            is_open: self.numbers.1,
            name: &self.name,
            walls: &walls,
            raw: &self.raw,
            host: players[0].clone(),
            players: List::of(&players),
            rows: List::of(&rows),
            spawn: at(self.numbers.2, self.numbers.3),
        })
    }
}

fn check<S: Strategy>(
    test: &str,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let seed = crate::util::seed(test);
    let config = RunnerConfig {
        cases: 1_000,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..RunnerConfig::default()
    };
    if let Err(error) = TestRunner::new(config).run(strategy, property) {
        panic!("{error}\nreplay with TEST_SEED={seed}");
    }
}

#[test]
fn any_value_is_decoded_as_it_was_encoded() {
    check("any_value_is_decoded_as_it_was_encoded", &a_room(), |own| {
        let bytes = own.encoded();
        let came = decoded::<Room<'_>>(&bytes);
        let came = came.map_err(|kick| TestCaseError::fail(kick.to_string()))?;
        own.show(|room| {
            prop_assert_eq!(&came, room);
            Ok(())
        })?;
        prop_assert_eq!(encoded(&came), bytes, "passed on as it came");
        Ok(())
    });
}

#[test]
fn packet_cut_or_extended_is_refused() {
    check("packet_cut_or_extended_is_refused", &a_room(), |own| {
        let bytes = own.encoded();
        let payload = &bytes[4..];
        for len in 0..payload.len() {
            prop_assert_eq!(body::<Room<'_>>(&payload[..len]), Err(Kick::BadPayload));
        }
        let longer = [payload, &[0]].concat();
        prop_assert_eq!(body::<Room<'_>>(&longer), Err(Kick::BadPayload));
        Ok(())
    });
}

/// Any bytes, and packets of ours with some bytes changed, which get further.
fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(0_u8..3, 0..200),
        (a_room(), changes).prop_map(|(own, changes)| {
            let mut payload = own.encoded().split_off(4);
            for (place, byte) in changes {
                let place = place.index(payload.len());
                payload[place] = byte;
            }
            payload
        }),
    ]
}

#[test]
fn any_bytes_are_a_packet_or_bad_payload() {
    check(
        "any_bytes_are_a_packet_or_bad_payload",
        &some_bytes(),
        |payload| {
            match body::<Room<'_>>(&payload) {
                Err(kick) => prop_assert_eq!(kick, Kick::BadPayload),
                Ok(room) => {
                    // What was read is all of it: it writes the same bytes again, and its lists have as
                    // many items as they say.
                    prop_assert_eq!(&encoded(&room)[4..], payload.as_slice());
                    prop_assert_eq!(room.players.iter().count(), room.players.len());
                    for (row, len) in room.rows.iter().map(|row| (row, row.len())) {
                        prop_assert_eq!(row.iter().count(), len);
                    }
                }
            }
            for kick in [
                body::<SHello>(&payload).err(),
                body::<CChat>(&payload).err(),
                body::<Numbers>(&payload).err(),
            ] {
                prop_assert!(matches!(kick, None | Some(Kick::BadPayload)));
            }
            Ok(())
        },
    );
}

#[test]
fn slice_of_numbers_is_encoded_as_a_list() {
    let numbers = [1_u16, 2, 3];
    let in_bytes = numbers.map(U16Le::new);
    let mut buffers = [[0; 8]; 2];
    let [one, two] = &mut buffers;
    server_core::PacketWriter::new(one).write(&List::of(&numbers));
    server_core::PacketWriter::new(two).write(&in_bytes[..]);
    assert_eq!(buffers[0], buffers[1]);
}
