use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{BasePage, Greeting, Offer, Reason, ReasonCode, SessionId, Standing, Timings, Token};
use super::*;
use crate::page::{MemoryIndex, PageIndex, Shape};
use crate::plan::PlanName;

/// Each message with as much in it as it may have.
fn fullest() -> Vec<Message> {
    let shape = Shape(vec![PAGES_MAX; MEMORIES_MAX]);
    let reason = Reason::new(ReasonCode::Internal, "x".repeat(2 * REASON_BYTES_MAX));
    let page = BasePage { memory: MemoryIndex(7), page: PageIndex(PAGES_MAX - 1), digest: u128::MAX };
    let times = u64::MAX;
    vec![
        Message::Hello { versions: (0, u16::MAX), session: SessionId([0xff; 16]), greeting: Greeting::Settle },
        Message::Welcome { version: u16::MAX },
        Message::Offer(Offer {
            guest: vec![0xff; GUEST_BYTES_MAX],
            module: [0xff; 32],
            module_bytes: super::super::MODULE_BYTES_MAX,
            netstack: [0xff; 32],
            abi: u32::MAX,
            shape: shape.clone(),
            plan: PlanName::PreCopy,
            encoding: Encoding::Lz4,
        }),
        Message::Accepted { needs_module: true },
        Message::Refused(reason.clone()),
        Message::Module(vec![0xff; CHUNK_BYTES_MAX]),
        Message::Prepared { shape: shape.clone(), base: vec![page; BASE_PAGES_MAX] },
        Message::Round { number: u32::MAX, shape: shape.clone() },
        Message::RoundEnd { number: u32::MAX },
        Message::Applied { number: u32::MAX },
        Message::Log(vec![0xff; CHUNK_BYTES_MAX]),
        Message::Claim,
        Message::Last { shape },
        Message::Frame(vec![0xff; FRAME_BYTES_MAX]),
        Message::Token(Token { state: vec![0xff; STATE_BYTES_MAX], digest: [0xff; 16], stopped_ns: u64::MAX }),
        Message::Taken(Timings {
            apply_us: times,
            grant_us: times,
            resume_us: times,
            first_poll_us: times,
            answered_us: times,
        }),
        Message::HandedBack(reason.clone()),
        Message::Switched { route_us: u64::MAX },
        Message::Bye,
        Message::Cancel(reason),
        Message::Settled(Standing::Open),
    ]
}

fn decode_all(bytes: &[u8]) -> Result<Message, WireError> {
    let prefix = Prefix::parse(*bytes.first_chunk().expect("a prefix"))?;
    assert_eq!(prefix, Prefix { kind: Kind::Message, body_bytes: bytes.len() - PREFIX_BYTES });
    decode(&bytes[PREFIX_BYTES..])
}

#[test]
fn a_message_that_is_full_travels() {
    for message in fullest() {
        assert_eq!(decode_all(&encode(&message)).unwrap(), message);
    }
}

#[test]
fn a_message_that_is_cut_or_has_bytes_behind_it_is_refused() {
    for message in fullest() {
        let mut bytes = encode(&message);
        let body = &bytes[PREFIX_BYTES..];
        for length in (0..body.len().min(100)).chain([body.len() - 1]) {
            assert!(decode(&body[..length]).is_err(), "{} cut to {length}", message.name());
        }
        bytes.push(0);
        assert!(decode(&bytes[PREFIX_BYTES..]).is_err(), "{}", message.name());
    }
}

#[test]
fn a_field_over_its_limit_is_refused() {
    let over = |message: Message| {
        let body = postcard::to_allocvec(&message).unwrap();
        assert!(message.check().is_err(), "{}", message.name());
        assert!(decode(&body).is_err(), "{}", message.name());
    };
    let zero = BasePage { memory: MemoryIndex(0), page: PageIndex(0), digest: 0 };
    over(Message::Hello { versions: (2, 1), session: SessionId([0; 16]), greeting: Greeting::Migrate });
    over(Message::Module(vec![0; CHUNK_BYTES_MAX + 1]));
    over(Message::Module(Vec::new()));
    over(Message::Log(Vec::new()));
    over(Message::Frame(vec![0; FRAME_BYTES_MAX + 1]));
    over(Message::Round { number: 0, shape: Shape::default() });
    over(Message::RoundEnd { number: 0 });
    over(Message::Round { number: 1, shape: Shape(vec![PAGES_MAX + 1]) });
    over(Message::Last { shape: Shape(vec![0; MEMORIES_MAX + 1]) });
    over(Message::Prepared { shape: Shape(vec![1]), base: vec![zero; BASE_PAGES_MAX + 1] });
    over(Message::Prepared { shape: Shape(vec![1]), base: vec![BasePage { page: PageIndex(1), ..zero }] });
    over(Message::Token(Token { state: vec![0; STATE_BYTES_MAX + 1], digest: [0; 16], stopped_ns: 0 }));
    over(Message::Cancel(Reason { code: ReasonCode::Room, message: "x".repeat(REASON_BYTES_MAX + 1) }));
}

#[test]
fn a_length_over_its_limit_is_refused_before_the_body_is_read() {
    let prefix = |kind, bytes: usize| {
        let length = (bytes as u32).to_le_bytes();
        Prefix::parse([kind, length[0], length[1], length[2], length[3]])
    };
    assert!(prefix(1, MESSAGE_BYTES_MAX).is_ok() && prefix(2, PAGES_BYTES_MAX).is_ok());
    assert!(matches!(prefix(1, MESSAGE_BYTES_MAX + 1), Err(WireError::TooLong { .. })));
    assert!(matches!(prefix(2, PAGES_BYTES_MAX + 1), Err(WireError::TooLong { .. })));
    assert!(matches!(prefix(3, 0), Err(WireError::Kind(3))));
}

#[test]
fn a_batch_is_within_its_limits() {
    let range = |memory, first, count| PageRange { memory: MemoryIndex(memory), first: PageIndex(first), count };
    let batch = |ranges| PagesHeader { ranges, encoding: Encoding::Raw };
    assert!(batch(vec![range(7, PAGES_MAX - 1, 1); BATCH_RANGES_MAX]).check().is_ok());
    let wrong = [
        vec![],
        vec![range(0, 0, BATCH_PAGES_MAX + 1)],
        vec![range(0, 0, u32::MAX); 2],
        vec![range(0, 0, 0), range(0, 0, 1)],
        vec![range(8, 0, 1)],
        vec![range(0, PAGES_MAX, 1)],
        vec![range(0, 0, 1); BATCH_RANGES_MAX + 1],
    ];
    for ranges in wrong {
        assert!(batch(ranges.clone()).check().is_err(), "{ranges:?}");
    }
}

#[test]
fn data_of_another_length_is_refused() {
    let range = PageRange { memory: MemoryIndex(0), first: PageIndex(0), count: 2 };
    for encoding in [Encoding::Raw, Encoding::Lz4] {
        let header = PagesHeader { ranges: vec![range], encoding };
        for pages in [1, 3] {
            let data = pack(encoding, &vec![1; pages * PAGE_BYTES]).into_owned();
            assert!(unpack(&header, &data).is_err(), "{encoding:?}, {pages} pages");
        }
    }
}

fn batches() -> impl Strategy<Value = (PagesHeader, Vec<u8>)> {
    let range = (0u8..8, 0u32..1000, 1u32..8).prop_map(|(memory, first, count)| PageRange {
        memory: MemoryIndex(memory),
        first: PageIndex(first),
        count,
    });
    let noise = prop_oneof![Just(None), any::<u64>().prop_map(Some)];
    (vec(range, 1..8), any::<bool>(), noise).prop_map(|(ranges, lz4, noise)| {
        let encoding = if lz4 { Encoding::Lz4 } else { Encoding::Raw };
        let header = PagesHeader { ranges, encoding };
        let mut state = noise.unwrap_or(1);
        let data = (0..header.pages() as usize * PAGE_BYTES).map(|_| {
            state = if noise.is_some() {
                state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407)
            } else {
                1
            };
            (state >> 56) as u8
        });
        let data = data.collect();
        (header, data)
    })
}

proptest! {
    #[test]
    fn pages_travel((header, pages) in batches()) {
        let data = pack(header.encoding, &pages);
        let mut bytes = encode_pages(&header, data.len());
        bytes.extend_from_slice(&data);
        let prefix = Prefix::parse(*bytes.first_chunk().unwrap()).unwrap();
        prop_assert_eq!(prefix, Prefix { kind: Kind::Pages, body_bytes: bytes.len() - PREFIX_BYTES });
        let (found, data) = decode_pages(&bytes[PREFIX_BYTES..]).unwrap();
        prop_assert_eq!(&found, &header);
        prop_assert_eq!(unpack(&found, data).unwrap().into_owned(), pages);
    }

    #[test]
    fn a_small_message_travels(number in 1u32.., pages in vec(0..=PAGES_MAX, 0..=MEMORIES_MAX), text in ".{0,40}") {
        let shape = Shape(pages);
        let messages = [
            Message::Round { number, shape: shape.clone() },
            Message::Last { shape },
            Message::Cancel(Reason::new(ReasonCode::Cancelled, text)),
        ];
        for message in messages {
            prop_assert_eq!(decode_all(&encode(&message)).unwrap(), message);
        }
    }

    #[test]
    fn bytes_of_anybody_never_panic(bytes in vec(any::<u8>(), 0..400), kind in 0u8..20) {
        let _ = decode(&bytes);
        if let Some(prefix) = bytes.first_chunk() {
            let _ = Prefix::parse(*prefix);
        }
        let mut known = bytes.clone();
        known.insert(0, kind);
        let _ = decode(&known);
        let mut pages = (bytes.len() as u16 / 4).to_le_bytes().to_vec();
        pages.extend(&bytes);
        for body in [&bytes, &pages] {
            if let Ok((header, data)) = decode_pages(body) {
                let _ = unpack(&header, data);
            }
        }
        let header = PagesHeader {
            ranges: vec![PageRange { memory: MemoryIndex(0), first: PageIndex(0), count: 1 }],
            encoding: Encoding::Lz4,
        };
        let _ = unpack(&header, &bytes);
    }
}
