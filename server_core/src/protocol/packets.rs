//! The table of a game's packets. Each packet is defined once.

/// Defines packets, one to a line: direction, id, name and payload.
///
/// ```
/// server_core::packets! {
///     /// Sent to all on every tick. Fixed fields, then the rest of the payload as text.
///     server 1 => pub SHello {
///         /// 1 for the first tick, and one more for each.
///         tick: u64,
///     } + text;
///
///     /// Any bytes, to be sent back. No fields.
///     client 2 => pub CEcho + bytes;
///
///     /// A line of chat, of 1 to 512 bytes.
///     client 4 => pub CChat + text(1..=512);
///
///     /// A step. Fixed fields and nothing else.
///     client 7 => pub CMove {
///         /// Where to.
///         to: Position,
///     };
///
///     /// The players in a room. A lifetime makes the packet variable, with parts of any size.
///     server 8 => pub SRoom<'a> {
///         /// Up to 32 bytes.
///         name: &'a str where 1..=32,
///         /// Where the walls are.
///         walls: &'a [Position],
///         /// The players in the room.
///         players: List<'a, Player<'a>>,
///     };
///
///     /// A position: part of other packets.
///     part pub Position {
///         /// To the right.
///         x: i32,
///         /// Down.
///         y: i32,
///     };
///
///     /// One player: part of a packet, of any size.
///     part pub Player<'a> {
///         /// Its session.
///         id: u64,
///         /// Its name.
///         name: &'a str,
///         /// The ids of its items.
///         items: List<'a, u16>,
///     };
/// }
/// use server_core::{Kick, List, Packet};
///
/// let step = Packet::new(7, &[3, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]).decode::<CMove>()?;
/// assert_eq!((step.to.x(), step.to.y()), (3, -2));
/// let chat = Packet::new(CChat::ID, b"").decode::<CChat>();
/// assert_eq!(chat, Err(Kick::BadPayload), "at least one byte");
/// # let room = SRoom { name: "r", walls: &[], players: List::default() };
/// # assert_eq!(server_core::OutgoingPacket::packet_bytes(&room).unwrap(), 11);
/// # let hello = SHello::new(1);
/// # let _ = (hello, CEcho, Player { id: 1, name: "", items: List::of(&[1]) });
/// # Ok::<(), Kick>(())
/// ```
///
/// # The parts of a line
///
/// | | |
/// |---|---|
/// | direction | `server`: from server to client; `client`: from client to server; `both`; `part`: part of packets, not a packet itself |
/// | id | a `u16`; the same one twice does not compile |
/// | `{ fields }` | a *fixed head*: numbers, arrays of them, and fixed parts. `u64` becomes [`U64Le`](crate::base::wire::U64Le) and so on, so the struct is plain bytes of alignment 1, read in place: a check of the length and no copy |
/// | `+ text`, `+ bytes` | the rest of the payload, after the fixed head; `+ text(1..=512)` limits its bytes |
/// | `NAME<'a> { fields }` | *variable*: numbers, `bool`, `&'a str`, `&'a [PART]`, [`List<'a, PART>`](crate::List), parts, and every other [`ReadPart`](crate::ReadPart) that is a [`WritePart`](crate::WritePart). Strings and lists have a `u16` in front; `where 1..=32` behind a type limits its length |
///
/// A field keeps its doc comment; fields are public.
///
/// A fixed head is made of native numbers by `new`, with its fields in order, and a method with the name of a field
/// returns its native number. The fields themselves have the types of the wire, for a constant, or for a part of a
/// large packet without a copy. No field of a fixed head has the name `new`.
///
/// ```
/// server_core::packets! {
///     client 7 => CMove { to: Position, path: [u16; 2] };
///     part Position { x: i32, y: i16 };
/// }
///
/// let step = CMove::new(Position::new(3, -2), [1, 2]);
/// assert_eq!((step.to().y(), step.path()), (-2, [1, 2]));
/// assert_eq!((step.to.y.get(), step.path[0].get()), (-2, 1));
/// # let _ = (step.to.x(), CMove::ID);
/// ```
///
/// A first line `pub const PACKETS;` makes a table of all packets ([`PacketInfo`](crate::PacketInfo)) for
/// [`ServerBuilder::packets`](crate::ServerBuilder::packets).
///
/// # The result
///
/// Each packet has a `const ID`, implements [`IncomingPacket`](crate::IncomingPacket) for
/// [`Packet::decode`](crate::Packet::decode) and [`Handlers`](crate::Handlers), and is sent by:
///
/// | defined as | read as | sent by |
/// |---|---|---|
/// | fixed fields | `&Self` | `ctx.send_packet(&head)` |
/// | fixed fields and a tail | `(&Self, &str)` or `(&Self, &[u8])` | `ctx.send(&head, tail)` |
/// | a tail alone | `&str` or `&[u8]` | `ctx.send(&Self, tail)` |
/// | variable | `Self` | `ctx.send_packet(&packet)` |
///
/// An invalid payload is [`Kick::BadPayload`](crate::Kick::BadPayload), without a line of yours: too
/// short, too long, not UTF-8, over a limit, a count beyond the bytes, bytes left over.
/// A limit is checked when a packet is read, and not when it is written: your own packets are your
/// responsibility.
///
/// # Bytes on the wire
///
/// Numbers are little-endian. No byte lies between two fields. This table is compared with what the library writes
/// (`tests/packets.rs`):
///
/// | type | in | example | bytes |
/// |---|---|---|---|
/// | `u8` | all | `&0x12_u8` | `12` |
/// | `i8` | all | `&-2_i8` | `fe` |
/// | `u16` | all | `&0x1234_u16` | `34 12` |
/// | `u32` | all | `&0x1234_5678_u32` | `78 56 34 12` |
/// | `u64` | all | `&0x1234_u64` | `34 12 00 00 00 00 00 00` |
/// | `i16` | all | `&-2_i16` | `fe ff` |
/// | `i32` | all | `&-2_i32` | `fe ff ff ff` |
/// | `i64` | all | `&-2_i64` | `fe ff ff ff ff ff ff ff` |
/// | `f32` | all | `&1.5_f32` | `00 00 c0 3f` |
/// | `f64` | all | `&1.5_f64` | `00 00 00 00 00 00 f8 3f` |
/// | `part Cell { x: u8, y: i16 }` | all | `&cell` | `01 fe ff` |
/// | `bool` | variable | `&true` | `01` |
/// | `&'a str` | variable | `"h\u{e9}"` | `03 00 68 c3 a9` |
/// | `&'a [u8]` | variable | `&[1_u8, 2][..]` | `02 00 01 02` |
/// | `&'a [Cell]` | variable | `&cells[..]` | `01 00 01 fe ff` |
/// | `List<'a, u16>` | variable | `&List::of(&[1_u16, 2])` | `02 00 01 00 02 00` |
/// | `List<'a, &'a str>` | variable | `&List::of(&["a", "bc"])` | `02 00 01 00 61 02 00 62 63` |
/// | `[u16; 2]` | fixed | `[1, 2]` | `01 00 02 00` |
///
/// A packet is its size (with these four bytes), its id, its fields in order, and its tail:
///
/// | packet | value | bytes |
/// |---|---|---|
/// | `client 7 => CStep { x: i32, y: i16 }` | `x 3, y -2` | `0a 00 07 00 03 00 00 00 fe ff` |
/// | `server 1 => STick { tick: u64 } + text` | `tick 2, "Hi"` | `0e 00 01 00 02 00 00 00 00 00 00 00 48 69` |
/// | `client 2 => CAny + bytes` | `1, 2` | `06 00 02 00 01 02` |
/// | `server 8 => SNames<'a> { room: u16, names: List<'a, &'a str> }` | `room 5, ["a", "bc"]` | `0f 00 08 00 05 00 02 00 01 00 61 02 00 62 63` |
///
/// # Definitions that do not compile
///
/// The same id twice:
///
/// ```compile_fail,E0081
/// server_core::packets! {
///     /// One.
///     client 1 => pub COne;
///     /// Two.
///     client 1 => pub CTwo;
/// }
/// ```
///
/// An id that is not a `u16`:
///
/// ```compile_fail
/// server_core::packets! {
///     /// One.
///     client 65536 => pub COne;
/// }
/// ```
///
/// An unknown direction:
///
/// ```compile_fail
/// server_core::packets! {
///     /// One.
///     sideways 1 => pub COne;
/// }
/// ```
///
/// A fixed head with a field that does not allow all bytes, or has no size on the wire:
///
/// ```compile_fail,E0277
/// server_core::packets! {
///     /// One.
///     client 1 => pub COne {
///         /// 2 to 255 are not a bool.
///         is_new: bool,
///     };
/// }
/// ```
///
/// A variable packet with a field that cannot be read:
///
/// ```compile_fail,E0277
/// server_core::packets! {
///     /// One.
///     client 1 => pub COne<'a> {
///         /// Would be allocated by a claimed count.
///         names: Vec<&'a str>,
///     };
/// }
/// ```
///
/// A packet with a tail that is sent without the tail:
///
/// ```compile_fail,E0277
/// server_core::packets! {
///     /// One.
///     server 1 => pub SOne + text;
/// }
/// fn send(ctx: &mut server_core::Context<'_>) {
///     ctx.send_packet(&SOne);
/// }
/// ```
///
/// An unknown tail:
///
/// ```compile_fail
/// server_core::packets! {
///     /// One.
///     server 1 => pub SOne + json;
/// }
/// ```
///
/// A packet with a lifetime and a tail:
///
/// ```compile_fail
/// server_core::packets! {
///     /// One.
///     server 1 => pub SOne<'a> {
///         /// Can be the last field instead of the tail.
///         name: &'a str,
///     } + text;
/// }
/// ```
///
/// A list of items without bytes, which could have any length:
///
/// ```compile_fail,E0080
/// server_core::packets! {
///     /// One.
///     client 1 => pub COne<'a> {
///         /// 65,535 of them in two bytes.
///         twos: server_core::List<'a, CTwo>,
///     };
///     /// Two.
///     client 2 => pub CTwo;
/// }
/// let _ = server_core::Packet::new(1, &[0, 0]).decode::<COne<'_>>();
/// ```
///
/// The same definitions, corrected:
///
/// ```
/// server_core::packets! {
///     /// One.
///     client 1 => pub COne<'a> {
///         /// One byte each.
///         threes: server_core::List<'a, Three>,
///         /// Checked.
///         is_new: bool,
///         /// Borrowed.
///         names: server_core::List<'a, &'a str>,
///     };
///     /// Two.
///     both 65535 => pub Two + text;
///     /// Part of one.
///     part pub Three {
///         /// One byte.
///         three: u8,
///     };
/// }
/// let one = server_core::Packet::new(1, &[1, 0, 3, 0, 0, 0]).decode::<COne<'_>>();
/// assert!(one.is_ok_and(|one| one.threes.len() == 1 && one.names.is_empty()));
/// fn send(ctx: &mut server_core::Context<'_>) {
///     ctx.send(&Two, "text");
/// }
/// ```
#[macro_export]
macro_rules! packets {
    (
        $(#[$meta:meta])* $vis:vis const $table:ident;
        $($packets:tt)*
    ) => {
        $crate::packets! { $($packets)* }
        $crate::__packet_table! { [$(#[$meta])* $vis $table] $($packets)* }
    };
    ($(
        $(#[$meta:meta])*
        $direction:ident $($id:literal =>)? $vis:vis $name:ident $(<$life:lifetime>)?
        $({ $($fields:tt)* })?
        $(+ $tail:ident $(($limit:expr))?)?
    );* $(;)?) => {
        $($crate::__packet! {
            $direction [$($id)?] [$(#[$meta])*] [$vis] $name [$($life)?]
            [$({ $($fields)* })?] [$($tail $(($limit))?)?]
        })*

        // Two variants with one number do not compile, and the compiler names both.
        const _: () = {
            #[allow(dead_code)]
            enum Ids { $($($name = $id,)?)* }
        };
    };
}

/// The table of the packets.
#[doc(hidden)]
#[macro_export]
macro_rules! __packet_table {
    (
        [$(#[$meta:meta])* $vis:vis $table:ident]
        $(
            $(#[$_meta:meta])*
            $direction:ident $($id:literal =>)? $_vis:vis $name:ident $(<$_life:lifetime>)?
            $({ $($_fields:tt)* })?
            $(+ $_tail:ident $(($_limit:expr))?)?
        );* $(;)?
    ) => {
        $(#[$meta])*
        $vis const $table: &[$crate::PacketInfo] = &[$($(
            $crate::__packet_info! { $direction $id $name },
        )?)*];
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __packet_info {
    (client $id:literal $name:ident) => {
        $crate::PacketInfo::new($id, stringify!($name), true, false)
    };
    (server $id:literal $name:ident) => {
        $crate::PacketInfo::new($id, stringify!($name), false, true)
    };
    ($direction:ident $id:literal $name:ident) => {
        $crate::PacketInfo::new($id, stringify!($name), true, true)
    };
}

/// One line of `packets!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __packet {
    // Part of packets, of fixed size.
    (part [] [$($meta:tt)*] [$vis:vis] $name:ident [] [{ $($fields:tt)+ }] []) => {
        $crate::__fixed! { [$($meta)*] [$vis] $name [{ $($fields)* }] }
        $crate::__fixed_part! { $name }
    };
    // Part of packets, of any size.
    (part [] [$($meta:tt)*] [$vis:vis] $name:ident [$life:lifetime] [{ $($fields:tt)* }] []) => {
        $crate::__variable! { [$($meta)*] [$vis] $name $life { $($fields)* } }
    };
    (part $($rest:tt)*) => {
        compile_error!("a part has fields, and neither an id nor a tail");
    };
    // Variable.
    (
        $direction:ident [$id:literal] [$($meta:tt)*] [$vis:vis] $name:ident [$life:lifetime]
        [{ $($fields:tt)* }] []
    ) => {
        $crate::__variable! { [$($meta)*] [$vis] $name $life { $($fields)* } }
        impl $name<'_> {
            /// The packet id.
            pub const ID: u16 = $id;
        }
        impl $crate::packet::IncomingPacket for $name<'_> {
            const ID: u16 = $id;
            type Body<'a> = $name<'a>;
            fn decode(
                packet: $crate::packet::Packet<'_>,
            ) -> ::core::result::Result<Self::Body<'_>, $crate::Kick> {
                let mut reader = $crate::PacketReader::new(packet.payload());
                let body = reader.read()?;
                reader.finish()?;
                ::core::result::Result::Ok(body)
            }
        }
        impl $crate::OutgoingPacket for $name<'_> {
            const ID: u16 = $id;
        }
        $crate::__direction! { $direction $name<'_> }
    };
    ($direction:ident [$id:literal] $meta:tt $vis:tt $name:ident [$life:lifetime] $($rest:tt)*) => {
        compile_error!("a packet with a lifetime has fields and no tail: make it the last field");
    };
    // Fixed fields alone.
    ($direction:ident [$id:literal] $meta:tt $vis:tt $name:ident [] $fields:tt []) => {
        $crate::__fixed! { $meta $vis $name $fields }
        $crate::__head! { $direction $id $name }
        $crate::__fixed_part! { $name }
        impl $crate::packet::IncomingPacket for $name {
            const ID: u16 = $id;
            type Body<'a> = &'a Self;
            fn decode(
                packet: $crate::packet::Packet<'_>,
            ) -> ::core::result::Result<Self::Body<'_>, $crate::Kick> {
                packet.parse_exact()
            }
        }
        impl $crate::OutgoingPacket for $name {
            const ID: u16 = $id;
        }
    };
    // A tail alone.
    (
        $direction:ident [$id:literal] $meta:tt $vis:tt $name:ident [] []
        [$tail:ident $(($limit:expr))?]
    ) => {
        $crate::__fixed! { $meta $vis $name [] }
        $crate::__head! { $direction $id $name }
        impl $crate::packet::IncomingPacket for $name {
            const ID: u16 = $id;
            type Body<'a> = &'a $crate::__tail_type!($tail);
            fn decode(
                packet: $crate::packet::Packet<'_>,
            ) -> ::core::result::Result<Self::Body<'_>, $crate::Kick> {
                let tail = packet.payload();
                $($crate::__private::limited(tail.len(), $limit)?;)?
                $crate::__read_tail!($tail tail)
            }
        }
    };
    // Fixed fields and a tail.
    (
        $direction:ident [$id:literal] $meta:tt $vis:tt $name:ident [] $fields:tt
        [$tail:ident $(($limit:expr))?]
    ) => {
        $crate::__fixed! { $meta $vis $name $fields }
        $crate::__head! { $direction $id $name }
        impl $crate::packet::IncomingPacket for $name {
            const ID: u16 = $id;
            type Body<'a> = (&'a Self, &'a $crate::__tail_type!($tail));
            fn decode(
                packet: $crate::packet::Packet<'_>,
            ) -> ::core::result::Result<Self::Body<'_>, $crate::Kick> {
                let (head, tail) = packet.parse::<Self>()?;
                $($crate::__private::limited(tail.len(), $limit)?;)?
                ::core::result::Result::Ok((head, $crate::__read_tail!($tail tail)?))
            }
        }
    };
    ($direction:ident [] $($rest:tt)*) => {
        compile_error!("a packet needs an id: `client 1 => NAME`; a part of packets is a `part`");
    };
}

/// A struct of fixed size.
#[doc(hidden)]
#[macro_export]
macro_rules! __fixed {
    ([$($meta:tt)*] [$vis:vis] $name:ident []) => {
        $($meta)*
        #[derive(
            Clone, Copy, Debug, PartialEq,
            $crate::wire::bytemuck::Pod, $crate::wire::bytemuck::Zeroable,
        )]
        // A derive takes no `$crate`: a game that renames this crate cannot use `packets!`.
        #[bytemuck(crate = "::server_core::wire::bytemuck")]
        #[repr(C)]
        $vis struct $name;
    };
    (
        [$($meta:tt)*] [$vis:vis] $name:ident
        [{ $($(#[$field_meta:meta])* $field:ident: $type:tt),* $(,)? }]
    ) => {
        $($meta)*
        #[derive(
            Clone, Copy, Debug, PartialEq,
            $crate::wire::bytemuck::Pod, $crate::wire::bytemuck::Zeroable,
        )]
        #[bytemuck(crate = "::server_core::wire::bytemuck")]
        #[repr(C)]
        $vis struct $name {
            $($(#[$field_meta])* pub $field: $crate::__wire_type!($type),)*
        }

        #[allow(dead_code, clippy::new_without_default, clippy::too_many_arguments)]
        impl $name {
            #[doc = concat!("A `", stringify!($name), "` of native numbers.")]
            #[must_use]
            pub fn new($($field: $type),*) -> Self {
                Self { $($field: $crate::__converted!($type, $field)),* }
            }
            $(
                #[doc = concat!("The field `", stringify!($field), "` as a native number.")]
                #[must_use]
                pub fn $field(&self) -> $type {
                    $crate::__converted!($type, self.$field)
                }
            )*
        }
    };
}

/// The parts of a struct of fixed size, for use inside of other structs.
#[doc(hidden)]
#[macro_export]
macro_rules! __fixed_part {
    ($name:ident) => {
        impl<'a> $crate::ReadPart<'a> for $name {
            const MIN_BYTES: usize = ::core::mem::size_of::<Self>();
            fn read(
                reader: &mut $crate::PacketReader<'a>,
            ) -> ::core::result::Result<Self, $crate::Kick> {
                reader.head().copied()
            }
        }
        impl $crate::WritePart for $name {
            fn write(&self, writer: &mut $crate::PacketWriter<'_>) {
                writer.put($crate::wire::bytemuck::bytes_of(self));
            }
        }
    };
}

/// A packet with a fixed head, which may be empty.
#[doc(hidden)]
#[macro_export]
macro_rules! __head {
    ($direction:ident $id:literal $name:ident) => {
        impl $name {
            /// The packet id.
            pub const ID: u16 = $id;
        }
        impl $crate::packet::PacketHead for $name {
            const ID: u16 = $id;
        }
        $crate::__direction! { $direction $name }
    };
}

/// A struct of variable size, which can be inside of other structs.
#[doc(hidden)]
#[macro_export]
macro_rules! __variable {
    (
        [$($meta:tt)*] [$vis:vis] $name:ident $life:lifetime
        { $($(#[$field_meta:meta])* $field:ident: $type:ty $(where $limit:expr)?),* $(,)? }
    ) => {
        $($meta)*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name<$life> {
            $($(#[$field_meta])* pub $field: $type,)*
        }
        impl<$life> $crate::ReadPart<$life> for $name<$life> {
            const MIN_BYTES: usize =
                0 $(+ <$type as $crate::ReadPart<$life>>::MIN_BYTES)*;
            fn read(
                reader: &mut $crate::PacketReader<$life>,
            ) -> ::core::result::Result<Self, $crate::Kick> {
                $(
                    let $field: $type = reader.read()?;
                    $($crate::__private::limited($field.len(), $limit)?;)?
                )*
                ::core::result::Result::Ok(Self { $($field),* })
            }
        }
        impl $crate::WritePart for $name<'_> {
            fn write(&self, writer: &mut $crate::PacketWriter<'_>) {
                $(writer.write(&self.$field);)*
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __direction {
    (client $name:ty) => {
        impl $crate::packet::Direction<$crate::packet::FromClient> for $name {}
    };
    (server $name:ty) => {
        impl $crate::packet::Direction<$crate::packet::FromServer> for $name {}
    };
    (both $name:ty) => {
        $crate::__direction! { client $name }
        $crate::__direction! { server $name }
    };
    ($direction:ident $name:ty) => {
        compile_error!(concat!(
            "`",
            stringify!($direction),
            "`: a line begins with `client`, `server`, `both` or `part`"
        ));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __wire_type {
    (u16) => {
        $crate::wire::U16Le
    };
    (u32) => {
        $crate::wire::U32Le
    };
    (u64) => {
        $crate::wire::U64Le
    };
    (i16) => {
        $crate::wire::I16Le
    };
    (i32) => {
        $crate::wire::I32Le
    };
    (i64) => {
        $crate::wire::I64Le
    };
    (f32) => {
        $crate::wire::F32Le
    };
    (f64) => {
        $crate::wire::F64Le
    };
    ([$item:tt; $count:expr]) => {
        [$crate::__wire_type!($item); $count]
    };
    ($type:ty) => {
        $type
    };
}

/// A native value of this type as one of the wire, or the other way round.
#[doc(hidden)]
#[macro_export]
macro_rules! __converted {
    ([u8; $count:expr], $value:expr) => {
        $value
    };
    ([$item:tt; $count:expr], $value:expr) => {
        $value.map(|item| $crate::__converted!($item, item))
    };
    ($type:tt, $value:expr) => {
        ::core::convert::Into::into($value)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tail_type {
    (text) => {
        str
    };
    (bytes) => {
        [u8]
    };
    ($tail:ident) => {
        compile_error!(concat!(
            "`",
            stringify!($tail),
            "`: a tail is `text` or `bytes`"
        ))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __read_tail {
    (text $bytes:ident) => {
        $crate::__private::text_of($bytes)
    };
    (bytes $bytes:ident) => {
        ::core::result::Result::Ok::<_, $crate::Kick>($bytes)
    };
    ($tail:ident $bytes:ident) => {
        ::core::result::Result::Err($crate::Kick::BadPayload)
    };
}
