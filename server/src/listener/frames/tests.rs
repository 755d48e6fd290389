use super::*;

const PING: u8 = 6;

fn frame(kind: u8, length: usize) -> Vec<u8> {
    let [.., high, middle, low] = u32::try_from(length).unwrap().to_be_bytes();
    let mut frame = vec![high, middle, low, kind, 0, 0, 0, 0, 1];
    frame.resize(HEAD + length, 7);
    frame
}

/// The number of bytes that are taken, if they come in pieces of this length.
fn taken(frames: &mut Frames, bytes: &[u8], piece: usize, now: Instant) -> usize {
    let taken = bytes
        .chunks(piece)
        .take_while(|part| frames.read(part, || now));
    taken.map(<[u8]>::len).sum()
}

#[test]
fn control_frames_are_counted_however_the_bytes_are_cut() {
    let now = Instant::now();
    let most = usize::try_from(AT_ONCE).unwrap();
    // PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION, unknown, and empty DATA.
    for (kind, length) in [
        (2, 5),
        (3, 4),
        (4, 6),
        (PING, 8),
        (8, 4),
        (9, 3),
        (99, 0),
        (DATA, 0),
    ] {
        for piece in [1, 7, 9, 4_096] {
            let mut frames = Frames::new(now);
            let mut bytes = PREFACE.to_vec();
            bytes.extend(frame(kind, length).repeat(most));
            assert_eq!(
                taken(&mut frames, &bytes, piece, now),
                bytes.len(),
                "{kind}"
            );
            assert!(!frames.read(&frame(kind, length), || now), "{kind} {piece}");
        }
    }
}

#[test]
fn frames_of_calls_and_what_they_carry_count_nothing() {
    let now = Instant::now();
    let mut frames = Frames::new(now);
    assert!(frames.read(PREFACE, || now));
    // The payload looks like a PING's head.
    let mut call = frame(HEADERS, 30);
    call.extend(frame(DATA, 16 * HEAD));
    for _ in 0..AT_ONCE {
        assert!(frames.read(&call, || now));
    }
    assert_eq!(frames.left, AT_ONCE);
}

#[test]
fn time_and_answers_grant_more_and_answers_to_pings_do_not_suffice() {
    let began = Instant::now();
    let mut frames = Frames::new(began);
    assert!(frames.read(PREFACE, || began));
    let ping = frame(PING, 8);
    let flood = |frames: &mut Frames, now: Instant, written: usize| {
        let mut taken = 0_u64;
        while taken < 1_000_000 && frames.read(&ping, || now) {
            taken += 1;
            frames.wrote(written);
        }
        // A real connection has ended; this one goes on behind the frame that was one too many.
        frames.skipped = 0;
        taken
    };
    let first = flood(&mut frames, began, ping.len());
    assert!((AT_ONCE..2 * AT_ONCE).contains(&first), "{first}");
    let second = began + Duration::from_secs(1);
    assert_eq!(flood(&mut frames, second, 0), EACH_SECOND);
    frames.wrote(6_400);
    assert_eq!(flood(&mut frames, second, 0), 100);
    let day = began + Duration::from_secs(86_400);
    assert_eq!(flood(&mut frames, day, 0), AT_ONCE);
    assert_eq!(flood(&mut frames, day, 0), 0);
}

/// A body of HTTP/1.1 is any bytes, and many of them look like the heads of control frames.
#[test]
fn a_peer_that_speaks_another_protocol_has_no_frames() {
    let now = Instant::now();
    let most = usize::try_from(AT_ONCE).unwrap();
    for start in [&b"POST / HTTP/1.1\r\n"[..], b"PRI * HTTP/1.1\r\n", b"P"] {
        let mut frames = Frames::new(now);
        assert!(frames.read(start, || now));
        let body = vec![0; 2 * HEAD * most];
        assert_eq!(taken(&mut frames, &body, 4_096, now), body.len());
    }
}
