//! WebSocket, by the sections of RFC 6455: frames without a socket, and the heads of the upgrade.

use server_core::protocol::codec::{Codec, Decoded};
use server_core::protocol::upgrade::{Answer, ClientUpgrade, MAX_HEAD_BYTES, answer};
use server_core::protocol::websocket::WebSocket;
use server_core::{DisconnectReason, Kick, Origin, WebSocketTarget};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of a client, with the length in its shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len());
    frame[1] |= 0x80;
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

/// A header without a mask.
fn header(first: u8, bytes: usize) -> Vec<u8> {
    match bytes {
        0..=125 => vec![first, bytes as u8],
        126..=0xffff => [&[first, 126][..], &(bytes as u16).to_be_bytes()].concat(),
        _ => [&[first, 127][..], &(bytes as u64).to_be_bytes()].concat(),
    }
}

/// What a codec makes of bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    packets: Vec<u8>,
    replies: Vec<u8>,
    empty_frames: usize,
    end: Option<Result<(), Kick>>,
}

fn read_pieces(codec: &mut WebSocket, bytes: &[u8], piece_bytes: usize) -> Read {
    let mut read = Read::default();
    for piece in bytes.chunks(piece_bytes) {
        let mut piece = piece.to_vec();
        let Decoded {
            bytes,
            empty_frames,
            end,
        } = codec.decode(&mut piece, &mut read.replies);
        read.packets.extend(&piece[..bytes]);
        read.empty_frames += empty_frames;
        read.end = end;
        if end.is_some() {
            break;
        }
    }
    read
}

/// What a server makes of bytes, whole and byte by byte.
fn read(bytes: &[u8]) -> Read {
    let whole = read_pieces(&mut WebSocket::server(), bytes, bytes.len().max(1));
    let cut = read_pieces(&mut WebSocket::server(), bytes, 1);
    assert_eq!(whole, cut, "{bytes:?}");
    whole
}

/// The close frame of a server for `reason`, behind these bytes.
fn close_of(bytes: &[u8], reason: DisconnectReason) -> (u16, String) {
    let mut codec = WebSocket::server();
    read_pieces(&mut codec, bytes, 4096);
    let mut out = Vec::new();
    codec.close(reason, &mut out);
    assert_eq!(out[0], FIN | CLOSE);
    assert_eq!(usize::from(out[1]), out.len() - 2);
    assert!(out.len() <= 127);
    let code = u16::from_be_bytes([out[2], out[3]]);
    (code, String::from_utf8(out[4..].to_vec()).unwrap())
}

#[track_caller]
fn breaks_the_protocol(bytes: &[u8]) {
    let read = read(bytes);
    assert_eq!(read.end, Some(Err(Kick::BadPayload)), "{bytes:?}");
    let close = close_of(bytes, Kick::BadPayload.into());
    assert_eq!(close, (1002, "bad_payload".into()), "{bytes:?}");
}

fn packets(bytes: &[u8]) -> Vec<u8> {
    let read = read(bytes);
    assert_eq!(read.end, None);
    read.packets
}

#[test]
fn section_5_2_each_form_of_the_length() {
    for bytes in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
        let payload: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        let first = frame(FIN | BINARY, &payload);
        let both = [&first[..], &frame(FIN | BINARY, b"next")].concat();
        let mut codec = WebSocket::server();
        let read = read_pieces(&mut codec, &both, 1 << 20);
        assert!(read.packets == [&payload[..], b"next"].concat(), "{bytes}");
        assert_eq!(read.end, None);
    }
}

#[test]
fn section_5_2_a_length_in_a_longer_form_breaks_the_protocol() {
    breaks_the_protocol(&[FIN | BINARY, 0x80 | 126, 0, 125, 0, 0, 0, 0]);
    let long = |length: u64| {
        let mut frame = vec![FIN | BINARY, 0x80 | 127];
        frame.extend(length.to_be_bytes());
        frame.extend(MASK);
        frame
    };
    breaks_the_protocol(&long(65_535));
    assert_eq!(read(&long(65_536)).end, None);
}

#[test]
fn section_5_2_the_largest_length_reserves_nothing_and_more_breaks_the_protocol() {
    let claim = |length: u64| {
        let mut frame = vec![FIN | BINARY, 0x80 | 127];
        frame.extend(length.to_be_bytes());
        frame.extend(MASK);
        frame
    };
    let largest = (1 << 63) - 1;
    let bytes = [&claim(largest)[..], &[b'a' ^ MASK[0]]].concat();
    assert_eq!(packets(&bytes), b"a");
    breaks_the_protocol(&claim(1 << 63));
    breaks_the_protocol(&claim(u64::MAX));
}

#[test]
fn section_5_2_reserved_bits_break_the_protocol() {
    for bits in [0x40, 0x20, 0x10, 0x70] {
        for opcode in [CONTINUATION, BINARY, PING, CLOSE] {
            breaks_the_protocol(&frame(FIN | bits | opcode, b""));
        }
    }
}

#[test]
fn section_5_2_reserved_opcodes_break_the_protocol() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        breaks_the_protocol(&frame(FIN | opcode, b""));
    }
}

#[test]
fn section_5_2_a_rule_is_broken_by_the_second_byte() {
    for start in [[FIN | 3, 0x80], [FIN | BINARY, 5], [FIN | PING, 0xfe]] {
        breaks_the_protocol(&start);
    }
}

#[test]
fn section_5_3_the_mask_goes_on_through_any_piece() {
    let payload: Vec<u8> = (0..=255).collect();
    let bytes = frame(FIN | BINARY, &payload);
    for piece_bytes in 1..=bytes.len() {
        let read = read_pieces(&mut WebSocket::server(), &bytes, piece_bytes);
        assert_eq!(read.packets, payload, "{piece_bytes}");
    }
}

#[test]
fn section_5_1_a_client_without_a_mask_breaks_the_protocol() {
    for opcode in [BINARY, PING, CLOSE] {
        breaks_the_protocol(&header(FIN | opcode, 0));
    }
    breaks_the_protocol(&[&header(FIN | BINARY, 5)[..], b"hello"].concat());
}

#[test]
fn section_5_1_a_server_with_a_mask_breaks_the_protocol() {
    let read = read_pieces(&mut WebSocket::client(), &frame(FIN | BINARY, b"x"), 99);
    assert_eq!(read.end, Some(Err(Kick::BadPayload)));
    let bytes = [&header(FIN | BINARY, 1)[..], b"x"].concat();
    let read = read_pieces(&mut WebSocket::client(), &bytes, 99);
    assert_eq!((read.packets, read.end), (b"x".to_vec(), None));
}

#[test]
fn section_5_4_fragments_are_one_stream() {
    let bytes = [
        frame(BINARY, b"ab"),
        frame(CONTINUATION, b""),
        frame(CONTINUATION, b"c"),
        frame(FIN | CONTINUATION, b"de"),
        frame(FIN | BINARY, b"f"),
    ];
    let read = read(&bytes.concat());
    assert_eq!((&read.packets[..], read.end), (&b"abcdef"[..], None));
    assert_eq!(read.empty_frames, 1);
}

#[test]
fn section_5_4_a_continuation_without_a_message_breaks_the_protocol() {
    breaks_the_protocol(&frame(FIN | CONTINUATION, b"a"));
    breaks_the_protocol(&[frame(FIN | BINARY, b"a"), frame(CONTINUATION, b"b")].concat());
}

#[test]
fn section_5_4_a_message_in_a_message_breaks_the_protocol() {
    for opcode in [BINARY, TEXT] {
        breaks_the_protocol(&[frame(BINARY, b"a"), frame(FIN | opcode, b"b")].concat());
    }
}

#[test]
fn section_5_4_control_frames_come_between_fragments() {
    let bytes = [
        frame(BINARY, b"a"),
        frame(FIN | PING, b"p"),
        frame(CONTINUATION, b"b"),
        frame(FIN | PONG, b"q"),
        frame(FIN | CONTINUATION, b"c"),
    ];
    let read = read(&bytes.concat());
    assert_eq!((&read.packets[..], read.end), (&b"abc"[..], None));
    assert_eq!(read.replies, [FIN | PONG, 1, b'p']);
    assert_eq!(read.empty_frames, 2);
}

#[test]
fn section_5_5_control_frames_in_fragments_break_the_protocol() {
    for opcode in [PING, PONG, CLOSE] {
        breaks_the_protocol(&frame(opcode, b""));
    }
}

#[test]
fn section_5_5_control_frames_above_125_bytes_break_the_protocol() {
    let longest = [b'x'; 125];
    let read = read(&frame(FIN | PING, &longest));
    assert_eq!(read.replies, [&[FIN | PONG, 125][..], &longest].concat());
    for opcode in [PING, PONG, CLOSE] {
        breaks_the_protocol(&frame(FIN | opcode, &[b'x'; 126]));
        breaks_the_protocol(&frame(FIN | opcode, &[b'x'; 65_536]));
    }
}

#[test]
fn section_5_5_1_a_close_ends_the_stream_and_is_echoed() {
    let bytes = [
        frame(FIN | BINARY, b"a"),
        frame(
            FIN | CLOSE,
            &[&3001_u16.to_be_bytes()[..], "tschüs".as_bytes()].concat(),
        ),
        frame(FIN | BINARY, b"b"),
    ]
    .concat();
    let read = read(&bytes);
    assert_eq!((&read.packets[..], read.end), (&b"a"[..], Some(Ok(()))));
    let close = close_of(&bytes, DisconnectReason::PeerClosed);
    assert_eq!(close, (3001, String::new()));
}

#[test]
fn section_5_5_1_a_close_without_a_code_is_answered_with_1000() {
    for bytes in [&frame(FIN | CLOSE, b"")[..], b""] {
        let close = close_of(bytes, DisconnectReason::PeerClosed);
        assert_eq!(close, (1000, String::new()));
    }
}

#[test]
fn section_5_5_1_an_invalid_close_breaks_the_protocol() {
    breaks_the_protocol(&frame(FIN | CLOSE, &[3]));
    for reason in [
        &[0xff][..],
        &[0xc3],
        &[0xed, 0xa0, 0x80],
        &[0xf4, 0x90, 0x80, 0x80],
    ] {
        let payload = [&1000_u16.to_be_bytes()[..], reason].concat();
        breaks_the_protocol(&frame(FIN | CLOSE, &payload));
    }
}

#[test]
fn section_5_5_2_a_ping_is_answered_with_its_payload() {
    for payload in [&b""[..], b"Hello", &[0; 125]] {
        let pong = [&header(FIN | PONG, payload.len())[..], payload].concat();
        let read = read(&frame(FIN | PING, payload));
        assert_eq!((read.replies, read.empty_frames), (pong, 1));
    }
}

#[test]
fn section_5_5_3_one_pong_answers_all_pings_that_wait() {
    let pings: Vec<u8> = (0..100).flat_map(|n| frame(FIN | PING, &[n])).collect();
    let read = read(&pings);
    assert_eq!(read.replies, [FIN | PONG, 1, 99]);
    assert_eq!(read.empty_frames, 100);
}

#[test]
fn section_5_5_3_a_pong_without_a_ping_is_not_answered() {
    let read = read(&frame(FIN | PONG, b"x"));
    assert_eq!(
        (read.replies.len(), read.end, read.empty_frames),
        (0, None, 1)
    );
}

#[test]
fn section_5_6_text_is_a_bad_payload_with_close_code_1008() {
    for first in [TEXT, FIN | TEXT] {
        let bytes = frame(first, b"hello");
        assert_eq!(read(&bytes).end, Some(Err(Kick::BadPayload)));
        let close = close_of(&bytes, Kick::BadPayload.into());
        assert_eq!(close, (1008, "bad_payload".into()));
    }
}

#[test]
fn section_5_6_a_run_of_packets_is_one_binary_message() {
    let mut codec = WebSocket::server();
    for (bytes, prefix) in [
        (1, vec![FIN | BINARY, 1]),
        (125, vec![FIN | BINARY, 125]),
        (126, vec![FIN | BINARY, 126, 0, 126]),
        (65_535, vec![FIN | BINARY, 126, 0xff, 0xff]),
    ] {
        let mut out = Vec::new();
        codec.begin_run(bytes, &mut out);
        assert_eq!(out, prefix);
    }
    assert_eq!(WebSocket::MAX_RUN_BYTES, 65_535);
    assert!(!codec.masks_runs());
}

#[test]
fn section_5_7_the_examples_of_the_rfc() {
    let ping = [
        0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    let pong = [0x8a, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(read(&ping).replies, pong);
    // A fragmented message without a mask: of a server. The example has text, here it is binary.
    let fragments = [0x02, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    let read = read_pieces(&mut WebSocket::client(), &fragments, 99);
    assert_eq!((&read.packets[..], read.end), (&b"Hello"[..], None));
}

#[test]
fn section_7_4_close_codes_that_may_be_sent() {
    let close = |code: u16| frame(FIN | CLOSE, &code.to_be_bytes());
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999] {
        assert_eq!(read(&close(code)).end, Some(Ok(())), "{code}");
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        breaks_the_protocol(&close(code));
    }
}

#[test]
fn section_7_4_the_close_code_of_each_end() {
    const LONG: Kick = Kick::Custom(
        1000,
        "ääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääää",
    );
    for (reason, code, label) in [
        (DisconnectReason::Closed, 1000, "closed"),
        (DisconnectReason::Shutdown, 1001, "shutdown"),
        (Kick::TooLarge.into(), 1009, "too_large"),
        (Kick::BadSize.into(), 1008, "bad_size"),
        (Kick::UnknownId.into(), 1008, "unknown_id"),
        (Kick::BadPayload.into(), 1008, "bad_payload"),
        (Kick::RateLimit.into(), 1008, "rate_limit"),
        (DisconnectReason::LoginTimeout, 1008, "login_timeout"),
        (DisconnectReason::HandlerPanicked, 1011, "handler_panic"),
        (LONG.into(), 1008, &LONG.label()[..122]),
    ] {
        assert_eq!(close_of(b"", reason), (code, label.into()), "{reason:?}");
    }
}

#[test]
fn a_connection_keeps_its_present_header_and_no_payload() {
    assert!(size_of::<WebSocket>() <= 104);
}

// ---- the end of a client ------------------------------------------------------------------------

#[test]
fn section_5_3_a_client_masks_each_frame_with_another_mask() {
    let mut client = WebSocket::client();
    assert!(client.masks_runs());
    let (mut masks, mut stream) = (Vec::new(), Vec::new());
    for bytes in [&b"hello"[..], &[7; 300], b"x"] {
        let mut out = Vec::new();
        client.begin_run(bytes.len(), &mut out);
        let mask = out[out.len() - 4..].to_vec();
        let mut payload = bytes.to_vec();
        // In pieces, and the first piece twice: the socket has refused it.
        client.mask(0, &mut payload.clone());
        let cut = bytes.len() / 3;
        client.mask(0, &mut payload[..cut]);
        client.mask(cut, &mut payload[cut..]);
        stream.extend([out, payload].concat());
        masks.push(mask);
    }
    let expected = [&b"hello"[..], &[7; 300], b"x"].concat();
    assert_eq!(packets(&stream), expected);
    masks.sort();
    masks.dedup();
    assert_eq!(masks.len(), 3);
}

#[test]
fn section_5_5_a_client_masks_pongs_and_its_close() {
    let mut client = WebSocket::client();
    let ping = [&header(FIN | PING, 2)[..], b"hi"].concat();
    let read = read_pieces(&mut client, &ping, 1);
    let mut server = WebSocket::server();
    assert_eq!(read_pieces(&mut server, &read.replies, 1).empty_frames, 1);
    let mut out = Vec::new();
    client.close(DisconnectReason::Closed, &mut out);
    assert_eq!(read_pieces(&mut server, &out, 1).end, Some(Ok(())));
}

// ---- the upgrade --------------------------------------------------------------------------------

const REQUEST: &str = "GET /play HTTP/1.1\r\nHost: game.example\r\nUpgrade: websocket\r\n\
                       Connection: keep-alive, Upgrade\r\nOrigin: https://game.example\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn status(request: &str) -> u16 {
    status_for(request, &[])
}

fn status_for(request: &str, origins: &[Origin]) -> u16 {
    match answer(request.as_bytes(), origins) {
        Answer::Incomplete => 0,
        Answer::Accept { .. } => 101,
        Answer::Refuse { status, response } => {
            let response = String::from_utf8(response).unwrap();
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")));
            assert!(response.contains("Connection: close\r\n") && response.ends_with("\r\n\r\n"));
            status
        }
    }
}

/// The status of the request with a line replaced, or without it.
fn status_with(from: &str, to: &str) -> u16 {
    assert!(REQUEST.contains(from));
    status(&REQUEST.replace(from, to))
}

#[test]
fn section_1_3_the_accept_key_of_the_rfc() {
    let Answer::Accept {
        head_bytes,
        response,
    } = answer(format!("{REQUEST}behind").as_bytes(), &[])
    else {
        panic!("not accepted");
    };
    assert_eq!(head_bytes, REQUEST.len());
    assert_eq!(
        String::from_utf8(response).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn section_4_2_1_a_part_of_a_request_waits_for_the_rest() {
    for end in 0..REQUEST.len() {
        assert_eq!(status(&REQUEST[..end]), 0, "{end}");
    }
}

#[test]
fn section_4_2_1_another_method_or_version_is_refused() {
    assert_eq!(status_with("GET", "POST"), 405);
    assert_eq!(status_with("GET", "HEAD"), 405);
    assert_eq!(status_with("HTTP/1.1", "HTTP/1.0"), 505);
    assert_eq!(status_with("HTTP/1.1", "HTTP/2.0"), 505);
    let refused = answer(REQUEST.replace("GET", "POST").as_bytes(), &[]);
    let Answer::Refuse { response, .. } = refused else {
        panic!("{refused:?}");
    };
    assert!(
        String::from_utf8(response)
            .unwrap()
            .contains("Allow: GET\r\n")
    );
}

#[test]
fn section_4_2_1_a_request_that_is_not_http_is_refused_at_once() {
    assert_eq!(status("\x16\x03\x01\x02"), 400);
    assert_eq!(status("\x04\0\x02\0"), 400);
    assert_eq!(status(&REQUEST.replace("Host: ", "Ho st: ")), 400);
}

#[test]
fn section_4_2_1_the_host_is_required_once() {
    assert_eq!(status_with("Host: game.example\r\n", ""), 400);
    assert_eq!(status_with("Upgrade: w", "Host: b\r\nUpgrade: w"), 400);
}

#[test]
fn section_4_2_1_upgrade_and_connection_are_lists_of_tokens() {
    assert_eq!(status_with("Upgrade: websocket\r\n", ""), 426);
    assert_eq!(
        status_with("Upgrade: websocket", "Upgrade: websocket2"),
        426
    );
    assert_eq!(
        status_with("Upgrade: websocket", "upgrade: h2c ,WebSocket"),
        101
    );
    assert_eq!(status_with("keep-alive, Upgrade", "keep-alive"), 426);
    assert_eq!(status_with("keep-alive, Upgrade", "uPGRADE"), 101);
}

#[test]
fn section_4_2_1_the_key_is_the_base64_of_16_bytes() {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    for bad in [
        "",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZW==",
    ] {
        assert_eq!(status_with(key, bad), 400, "{bad}");
    }
    assert_eq!(
        status_with(key, "dGhlIHNhbXBsZSBub25jZWU="),
        400,
        "17 bytes"
    );
    let twice = format!("{key}\r\nSec-WebSocket-Key: {key}");
    assert_eq!(status_with(key, &twice), 400);
}

#[test]
fn section_4_4_another_version_is_told_version_13() {
    for version in ["12", "8", "", "13, 8", "013"] {
        let request = REQUEST.replace("Version: 13", &format!("Version: {version}"));
        let Answer::Refuse { status, response } = answer(request.as_bytes(), &[]) else {
            panic!("{version} is accepted");
        };
        let response = String::from_utf8(response).unwrap();
        assert_eq!(status, 426);
        assert!(response.contains("\r\nSec-WebSocket-Version: 13\r\n"));
    }
    assert_eq!(status_with("Sec-WebSocket-Version: 13\r\n", ""), 426);
}

#[test]
fn section_4_2_2_pages_of_other_origins_are_forbidden() {
    let origins = |list: &[&str]| -> Vec<Origin> {
        list.iter().map(|origin| origin.parse().unwrap()).collect()
    };
    let listed = origins(&["http://localhost:8080", "https://game.example"]);
    let status_of = |origin: &str| {
        let request = REQUEST.replace("https://game.example\r\nSec", &format!("{origin}\r\nSec"));
        status_for(&request, &listed)
    };
    for allowed in [
        "https://game.example",
        "https://GAME.example:443",
        "http://localhost:8080",
    ] {
        assert_eq!(status_of(allowed), 101, "{allowed}");
    }
    for other in [
        "http://game.example",
        "https://game.example:8443",
        "https://game.example.evil.example",
        "https://evil-game.example",
        "https://www.game.example",
        "http://localhost",
        "null",
        "",
    ] {
        assert_eq!(status_of(other), 403, "{other}");
    }
    let two = "https://game.example\r\nOrigin: https://evil.example";
    assert_eq!(status_of(two), 403);
    let native = REQUEST.replace("Origin: https://game.example\r\n", "");
    assert_eq!(status_for(&native, &listed), 101, "not of a page");
    assert_eq!(status_for(REQUEST, &[]), 101);
}

#[test]
fn section_4_2_1_a_head_above_8_kib_is_refused() {
    let with_cookie = |bytes: usize| {
        let cookie = format!("Cookie: {}\r\nUpgrade:", "c".repeat(bytes));
        REQUEST.replacen("Upgrade:", &cookie, 1)
    };
    let room = MAX_HEAD_BYTES - with_cookie(0).len();
    assert_eq!(status(&with_cookie(room)), 101);
    assert_eq!(status(&with_cookie(room + 1)), 431);
    let endless = format!("GET / HTTP/1.1\r\nCookie: {}", "c".repeat(MAX_HEAD_BYTES));
    assert_eq!(status(&endless), 431);
    assert_eq!(
        status_with(
            "Upgrade: w",
            &format!("{}Upgrade: w", "A: b\r\n".repeat(64))
        ),
        431
    );
}

fn client(host: &str, path: &str) -> (ClientUpgrade, Vec<u8>) {
    ClientUpgrade::new(&WebSocketTarget::new(host, path).unwrap())
}

#[test]
fn section_4_1_a_client_accepts_its_own_server_alone() {
    let (upgrade, request) = client("game.example:80", "/play?x=1");
    let Answer::Accept {
        head_bytes,
        response,
    } = answer(&request, &[])
    else {
        panic!("{}", String::from_utf8_lossy(&request));
    };
    assert_eq!(head_bytes, request.len());
    let behind = [&response[..], b"\x82\0"].concat();
    assert_eq!(upgrade.check(&behind), Ok(Some(response.len())));
    for end in 0..response.len() {
        assert_eq!(upgrade.check(&response[..end]), Ok(None));
    }
    let response = String::from_utf8(response).unwrap();
    let (other, _) = client("game.example:80", "/play?x=1");
    assert!(other.check(response.as_bytes()).is_err(), "another key");
    for (from, to) in [
        ("101 Switching Protocols", "200 OK"),
        ("Upgrade: websocket\r\n", ""),
        ("Connection: Upgrade\r\n", ""),
        (
            "\r\n\r\n",
            "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        ),
        ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n"),
    ] {
        let refused = upgrade.check(response.replace(from, to).as_bytes());
        assert!(refused.is_err(), "{from:?} replaced by {to:?}");
    }
}

#[test]
fn an_origin_is_a_scheme_a_host_and_a_port() {
    let same = |a: &str, b: &str| a.parse::<Origin>().unwrap() == b.parse::<Origin>().unwrap();
    assert!(same("http://a.example:80", "http://A.EXAMPLE"));
    assert!(!same("http://a.example:443", "http://a.example"));
    assert!(same("https://[::1]:443", "https://[::1]"));
    assert!(!same("https://[::1]:8443", "https://[::1]"));
    assert_eq!(
        "HTTPS://a.example:8443"
            .parse::<Origin>()
            .unwrap()
            .to_string(),
        "https://a.example:8443"
    );
    for bad in [
        "",
        "a.example",
        "https://",
        "https://a/b",
        "https://a:b",
        "https://a:99999",
        "https://a:b:443",
        "https://::1:443",
        "https://u@a",
        "https://a b",
        "://a",
        "null",
    ] {
        assert!(bad.parse::<Origin>().is_err(), "{bad}");
    }
}
