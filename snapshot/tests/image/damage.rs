//! Whatever happened to a file, it is refused, with a sentence that says what is wrong with it.

use std::io::Cursor;

use roam_snapshot::image::{Image, ImageError, Section, peek, verify};

use crate::model::{Step, image, meta, range, small};

#[test]
fn every_flipped_bit_is_refused() {
    let mut bytes = small();
    assert!(verify(bytes.as_slice()).is_ok());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(verify(bytes.as_slice()).is_err(), "bit {bit} of byte {at} does not matter");
            bytes[at] ^= 1 << bit;
        }
        // And all of the byte at once, however it is opened.
        bytes[at] ^= 0xff;
        assert!(Image::open(Cursor::new(&bytes)).is_err(), "byte {at} does not matter");
        bytes[at] ^= 0xff;
    }
}

#[test]
fn every_shorter_file_is_refused() {
    let bytes = small();
    for has in 0..bytes.len() {
        let expected = if has < 4096 { 4096 } else { bytes.len() as u64 };
        match verify(&bytes[..has]) {
            Err(ImageError::Truncated { needs, has: found }) => assert_eq!((needs, found), (expected, has as u64)),
            Err(ImageError::NotAnImage) => assert!(has < 8, "it begins like one"),
            other => panic!("{has} bytes: {other:?}"),
        }
        assert!(peek(Cursor::new(&bytes[..has])).is_err());
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    let mut bytes = small();
    let end = bytes.len() as u64;
    bytes.push(0);
    assert!(matches!(verify(bytes.as_slice()), Err(ImageError::Longer(found)) if found == end));
}

#[test]
fn a_newer_version_is_named() {
    let mut bytes = small();
    bytes[8] = 2;
    let refused = verify(bytes.as_slice()).unwrap_err();
    assert_eq!(refused.to_string(), "the image has format version 2; this program reads up to 1");
    bytes[8] = 0;
    assert!(matches!(verify(bytes.as_slice()), Err(ImageError::Version(0))));
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    for bytes in [&b""[..], b"{}", &[0x7f; 10_000], &[0xff; 4096], b"roamimg"] {
        assert!(matches!(verify(bytes), Err(ImageError::NotAnImage)));
    }
    assert!(matches!(verify(&[0; 8192][..]), Err(ImageError::Unfinished)));
}

#[test]
fn damage_is_said_where_it_is() {
    let steps = [Step { range: range(1, 100, 20), fill: 1 }, Step { range: range(0, 7, 3), fill: 1 }];
    let (whole, _) = image(&steps, &meta(), &[b"a frame".to_vec()]);
    let damaged = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        verify(bytes.as_slice()).unwrap_err()
    };
    let page = |number: usize| 4096 * (1 + number);
    assert!(matches!(damaged(page(0)), ImageError::Pages { memory: 1, first: 100, last: 115 }));
    assert!(matches!(damaged(page(17)), ImageError::Pages { memory: 1, first: 116, last: 119 }));
    let sentence = damaged(page(17)).to_string();
    assert_eq!(sentence, "the image is damaged: the checksum over pages 116 to 119 of memory 1 differs");
    assert!(matches!(damaged(100), ImageError::Header));
    assert!(matches!(damaged(page(23)), ImageError::Section(Section::Index)));
    assert!(matches!(damaged(page(23) + 2 * 16), ImageError::Section(Section::Checksums)));
    assert!(matches!(damaged(page(23) + 2 * 16 + 2 * 32 + 1), ImageError::Section(Section::Frames)));
    assert!(matches!(damaged(whole.len() - 1), ImageError::Section(Section::Meta)));
}
