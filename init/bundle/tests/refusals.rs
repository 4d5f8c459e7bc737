//! What a machine refuses, and what it takes.

use ed25519_dalek::SigningKey;
use kairo_bundle::blocks::{Index, Origin, Run, check_artifact, fetched_bytes};
use kairo_bundle::bundle::{Accepted, BundleError, Head, Machine};
use kairo_bundle::document::{DocumentError, Kind, SignatureBy, Signed};
use kairo_bundle::hex::{Hash, Hex, PublicKey};
use kairo_bundle::manifest::{Artifact, BLOCK_BYTES, Manifest, Target};
use kairo_bundle::root::{Root, RootError};
use proptest::prelude::*;

const BLOCK: usize = BLOCK_BYTES as usize;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(number: u8) -> PublicKey {
    Hex(key(number).verifying_key().to_bytes())
}

/// Root keys 1, 2 and 3, of which two must sign; release keys 11 and 12, of which one must.
fn root() -> Root {
    let root = [public(1), public(2), public(3)];
    Root::new(1, (2, &root), (1, &[public(11), public(12)]))
}

fn contents(target: Target) -> Vec<u8> {
    let first = match target {
        Target::Kernel => 1,
        Target::Root => 100,
    };
    (first..first + 5).flat_map(|byte| [byte; BLOCK]).collect()
}

fn artifact(target: Target) -> Artifact {
    let contents = contents(target);
    let index = Index::of(&mut contents.as_slice()).expect("memory is read");
    Artifact {
        target,
        size: contents.len() as u64,
        sha256: Hash::of(&contents),
        index_sha256: Hash::of(&index.to_bytes()),
    }
}

fn manifest() -> Manifest {
    Manifest {
        format: Manifest::format(),
        version: "1.2.3".to_owned(),
        seq: 7,
        min_seq: 6,
        boards: vec!["qemu-x86_64".to_owned(), "rpi4".to_owned()],
        min_loader: 1,
        artifacts: vec![artifact(Target::Kernel), artifact(Target::Root)],
        verity_root: Hash::of(b"tree"),
    }
}

fn signed(manifest: &Manifest, keys: &[&SigningKey]) -> Head {
    Head {
        roots: Vec::new(),
        manifest: Signed::new(Kind::Manifest, manifest, keys),
    }
}

fn head() -> Head {
    signed(&manifest(), &[&key(11)])
}

fn judge(head: &Head) -> Result<Accepted, BundleError> {
    judged_by(&root(), "rpi4", 5, head)
}

fn judged_by(root: &Root, board: &str, floor: u64, head: &Head) -> Result<Accepted, BundleError> {
    // What arrives are bytes.
    let read = Head::from_bytes(&head.to_bytes())?;
    read.accept(&Machine {
        root,
        board,
        loader: 1,
        floor,
    })
}

#[test]
fn a_release_for_this_board_signed_by_a_release_key_is_taken() {
    let accepted = judge(&head()).unwrap();
    assert_eq!(accepted.manifest, manifest());
    assert_eq!(accepted.hash, head().manifest.hash());
    judge(&signed(&manifest(), &[&key(11), &key(12)])).unwrap();
}

#[test]
fn wrong_keys_are_refused_by_name() {
    let error = judge(&signed(&manifest(), &[&key(13)])).unwrap_err();
    assert!(
        error.to_string().contains(&public(13).to_string()),
        "{error}"
    );
    // A root key is no release key.
    let error = judge(&signed(&manifest(), &[&key(1)])).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Document(DocumentError::UnknownKey { .. })
        ),
        "{error}"
    );
    // One good signature does not carry a bad one.
    let error = judge(&signed(&manifest(), &[&key(11), &key(13)])).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Document(DocumentError::UnknownKey { .. })
        ),
        "{error}"
    );
    let error = judge(&signed(&manifest(), &[])).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Document(DocumentError::Threshold { .. })
        ),
        "{error}"
    );
}

#[test]
fn a_key_counts_once() {
    let strict = Root::new(1, (1, &[public(1)]), (2, &[public(11), public(12)]));
    let error = judged_by(&strict, "rpi4", 5, &head()).unwrap_err();
    let message = "the manifest has 1 signatures by release keys, and needs 2";
    assert_eq!(error.to_string(), message);
    let mut twice = head();
    let again: SignatureBy = twice.manifest.signatures[0].clone();
    twice.manifest.signatures.push(again);
    let error = judged_by(&strict, "rpi4", 5, &twice).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Document(DocumentError::SignatureList { .. })
        ),
        "{error}"
    );
}

#[test]
fn a_signature_over_something_else_is_refused() {
    let mut swapped = head();
    let other = Manifest {
        seq: 8,
        ..manifest()
    };
    swapped.manifest.signatures = Signed::new(Kind::Manifest, &other, &[&key(11)]).signatures;
    let error = judge(&swapped).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Document(DocumentError::BadSignature { .. })
        ),
        "{error}"
    );
    // The same words as another kind of document.
    let mut as_root = head();
    as_root.manifest.signatures = Signed::new(Kind::Root, &manifest(), &[&key(11)]).signatures;
    let error = judge(&as_root).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Document(DocumentError::BadSignature { .. })
        ),
        "{error}"
    );
}

#[test]
fn other_boards_older_releases_and_older_loaders_are_refused() {
    let error = judged_by(&root(), "rpi5", 5, &head()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "release 1.2.3 is for qemu-x86_64, rpi4, and this is rpi5"
    );
    let error = judged_by(&root(), "rpi4", 8, &head()).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::TooOld {
                seq: 7,
                floor: 8,
                ..
            }
        ),
        "{error}"
    );
    judged_by(&root(), "rpi4", 7, &head()).unwrap();
    let newer = Manifest {
        min_loader: 2,
        ..manifest()
    };
    let error = judge(&signed(&newer, &[&key(11)])).unwrap_err();
    assert!(
        matches!(error, BundleError::Loader { needed: 2, .. }),
        "{error}"
    );
}

/// Version 2: root key 3 and release key 11 are gone, 4 and 13 are new.
fn second_root() -> Root {
    let root = [public(1), public(2), public(4)];
    Root::new(2, (2, &root), (1, &[public(12), public(13)]))
}

fn rotated(keys: &[&SigningKey], release: &SigningKey) -> Head {
    Head {
        roots: vec![Signed::new(Kind::Root, &second_root(), keys)],
        manifest: Signed::new(Kind::Manifest, &manifest(), &[release]),
    }
}

#[test]
fn keys_rotate_when_the_old_and_the_new_ones_agree() {
    let both = [&key(1), &key(2)];
    let accepted = judge(&rotated(&both, &key(13))).unwrap();
    assert_eq!(accepted.root, second_root());
    // A revoked key has no say any more.
    let error = judge(&rotated(&both, &key(11))).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Document(DocumentError::UnknownKey { .. })
        ),
        "{error}"
    );
    // Who has made the step already takes the same bundle.
    judged_by(&second_root(), "rpi4", 5, &rotated(&both, &key(13))).unwrap();
    let error = judged_by(&second_root(), "rpi4", 5, &head()).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Document(DocumentError::UnknownKey { .. })
        ),
        "{error}"
    );
}

#[test]
fn nobody_hands_over_alone() {
    let few: [&[&SigningKey]; 4] = [&[&key(1)], &[&key(1), &key(3)], &[&key(2), &key(4)], &[]];
    for keys in few {
        let error = judge(&rotated(keys, &key(13))).unwrap_err();
        let RootError::Document(DocumentError::Threshold { .. }) = (match error {
            BundleError::Root(error) => error,
            other => panic!("{other}"),
        }) else {
            panic!(
                "{} signatures were enough, or refused otherwise",
                keys.len()
            );
        };
    }
    let mut skipped = second_root();
    skipped.version = 3;
    let head = Head {
        roots: vec![Signed::new(Kind::Root, &skipped, &[&key(1), &key(2)])],
        ..head()
    };
    let error = judge(&head).unwrap_err();
    assert_eq!(error.to_string(), "root 3 does not follow root 1");
}

/// A change to a manifest, and the field that it is refused by.
type Spoiled = (fn(&mut Manifest), &'static str);

#[test]
fn fields_out_of_bounds_are_refused_by_name() {
    let spoiled: [Spoiled; 16] = [
        (|manifest| manifest.format.push('1'), "format"),
        (|manifest| manifest.version.clear(), "version"),
        (|manifest| manifest.version = "x".repeat(65), "version"),
        (|manifest| manifest.version = "1\n2".to_owned(), "version"),
        (|manifest| manifest.seq = 0, "seq"),
        (|manifest| manifest.seq = 1 << 53, "seq"),
        (|manifest| manifest.min_seq = 8, "min_seq"),
        (|manifest| manifest.boards.clear(), "boards"),
        (|manifest| manifest.boards.reverse(), "boards"),
        (
            |manifest| manifest.boards = vec!["rpi4".to_owned(); 2],
            "boards",
        ),
        (|manifest| manifest.artifacts.reverse(), "artifacts"),
        (
            |manifest| manifest.artifacts.push(artifact(Target::Root)),
            "artifacts",
        ),
        (|manifest| manifest.artifacts.truncate(1), "artifacts"),
        (|manifest| manifest.artifacts[0].size = 0, "size"),
        (|manifest| manifest.artifacts[0].size += 1, "size"),
        (
            |manifest| manifest.artifacts[0].size = (1 << 30) + BLOCK_BYTES,
            "size",
        ),
    ];
    for (spoil, name) in spoiled {
        let mut manifest = manifest();
        spoil(&mut manifest);
        match judge(&signed(&manifest, &[&key(11)])).unwrap_err() {
            BundleError::Document(DocumentError::Field { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn unknown_fields_and_other_forms_are_refused_although_signed() {
    let text = head().manifest.text;
    let with_field = text.replacen('{', "{\"extra\":1,", 1);
    let with_space = text.replacen(':', ": ", 1);
    let twice = text.replacen("\"seq\":7,", "\"seq\":7,\"seq\":7,", 1);
    for text in [with_field, with_space, twice] {
        let error = Manifest::from_text(text.as_bytes()).unwrap_err();
        let is_form = matches!(
            error,
            DocumentError::Malformed { .. } | DocumentError::NotCanonical { .. }
        );
        assert!(is_form, "{error}: {text}");
    }
    let long = vec![b' '; 10_000];
    let error = Manifest::from_text(&long).unwrap_err();
    assert!(matches!(error, DocumentError::TooLarge { .. }), "{error}");
}

#[test]
fn a_bundle_cut_off_anywhere_is_refused() {
    let bytes = head().to_bytes();
    for length in 0..bytes.len() {
        let error = Head::from_bytes(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, BundleError::Truncated { .. }),
            "{length}: {error}"
        );
    }
    let mut oversized = bytes;
    oversized[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = Head::from_bytes(&oversized).unwrap_err();
    assert!(
        matches!(error, BundleError::Document(DocumentError::TooLarge { .. })),
        "{error}"
    );
}

#[test]
fn parts_follow_each_other_and_fill_the_file() {
    let head = head();
    let (places, length) = head.places(&manifest());
    let mut next = head.to_bytes().len() as u64;
    let extents = places.iter().map(|place| place.index);
    for extent in extents.chain(places.iter().map(|place| place.contents)) {
        assert_eq!(extent.offset, next);
        assert_eq!(extent.offset % BLOCK_BYTES, 0);
        next = (extent.offset + extent.length).next_multiple_of(BLOCK_BYTES);
    }
    assert_eq!(next, length);
}

#[test]
fn swapped_cut_and_changed_artifacts_are_refused() {
    let kernel = artifact(Target::Kernel);
    let good = contents(Target::Kernel);
    check_artifact(&mut good.as_slice(), &kernel).unwrap();
    check_artifact(
        &mut [&good[..], b"the rest of the partition"]
            .concat()
            .as_slice(),
        &kernel,
    )
    .unwrap();
    let mut changed = good.clone();
    changed[9999] ^= 1;
    for bad in [
        contents(Target::Root),
        changed,
        good[..good.len() - 1].to_vec(),
    ] {
        let error = check_artifact(&mut bad.as_slice(), &kernel).unwrap_err();
        assert!(
            matches!(
                error,
                BundleError::Part {
                    target: Target::Kernel,
                    ..
                }
            ),
            "{error}"
        );
    }
    let index = Index::of(&mut good.as_slice()).unwrap();
    let bytes = index.to_bytes();
    assert_eq!(Index::from_bytes(&bytes, &kernel), Ok(index.clone()));
    assert!(Index::from_bytes(&bytes, &artifact(Target::Root)).is_err());
    assert!(Index::from_bytes(&bytes[1..], &kernel).is_err());
    index.check(4, &good[4 * BLOCK..], &kernel).unwrap();
    assert!(index.check(3, &good[4 * BLOCK..], &kernel).is_err());
    assert!(index.check(5, &good[4 * BLOCK..], &kernel).is_err());
}

fn index(blocks: &[u8]) -> Index {
    let bytes: Vec<u8> = blocks.iter().flat_map(|byte| [*byte; BLOCK]).collect();
    Index::of(&mut bytes.as_slice()).expect("memory is read")
}

#[test]
fn only_what_is_nowhere_is_fetched() {
    let run = |first, blocks, from| Run {
        first,
        blocks,
        from,
    };
    let wanted = index(&[1, 2, 3, 4, 0, 0, 9, 5, 6]);
    let plan = wanted.plan(
        &index(&[1, 7, 7, 7, 7, 7, 7, 7, 2]),
        &index(&[5, 6, 3, 4, 8]),
    );
    // 2 is in the slot that is written too, at a place that may be overwritten first.
    let expected = [
        run(0, 1, Origin::Place),
        run(1, 1, Origin::Bundle),
        run(2, 2, Origin::Running(2)),
        run(4, 2, Origin::Zeros),
        run(6, 1, Origin::Bundle),
        run(7, 2, Origin::Running(0)),
    ];
    assert_eq!(plan, expected);
    assert_eq!(fetched_bytes(&plan), 2 * BLOCK_BYTES);
    // Interrupted and resumed: what stands there is kept, and only the rest remains.
    let resumed = wanted.plan(&index(&[1, 2, 3, 4, 0, 0, 7, 7, 7]), &index(&[5, 6]));
    assert_eq!(resumed[0], run(0, 6, Origin::Place));
    assert_eq!(fetched_bytes(&resumed), BLOCK_BYTES);
    assert_eq!(fetched_bytes(&wanted.plan(&wanted, &index(&[]))), 0);
}

proptest! {
    #[test]
    fn a_flipped_bit_anywhere_is_refused(at in 0_usize..1 << 20) {
        let mut bytes = rotated(&[&key(1), &key(2)], &key(13)).to_bytes();
        let bit = at % (8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        let root = root();
        let machine = Machine { root: &root, board: "rpi4", loader: 1, floor: 5 };
        let taken = Head::from_bytes(&bytes).and_then(|head| head.accept(&machine));
        prop_assert!(taken.is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let _ = Head::from_bytes(&bytes);
        let _ = Manifest::from_text(&bytes);
        let _ = Root::from_text(&bytes);
    }

    #[test]
    fn a_plan_makes_the_artifact(wanted in blocks(), standby in blocks(), running in blocks()) {
        let plan = index(&wanted).plan(&index(&standby), &index(&running));
        let mut made = standby.clone();
        made.resize(wanted.len(), 0xff);
        for run in &plan {
            for number in run.first..run.first + run.blocks {
                let at = number as usize;
                made[at] = match run.from {
                    Origin::Place => made[at],
                    Origin::Zeros => 0,
                    Origin::Bundle => wanted[at],
                    Origin::Running(block) => running[(block + number - run.first) as usize],
                };
            }
        }
        prop_assert_eq!(made, wanted);
    }
}

fn blocks() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0_u8..6, 0..12)
}
