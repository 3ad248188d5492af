//! From the events of a stream to whole images.

use prost::bytes::{Bytes, BytesMut};

use super::convert::breach;
use super::v1;
use super::v1::generate_response::Event;
use crate::error::Result;

/// Largest encoded image that is put together, in bytes: 4096 × 4096 × 4 channels of float32.
const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// What has come of an answer after `accepted`.
#[derive(Debug, Default)]
pub(super) struct Answer {
    open: Option<Open>,
    summary: Option<v1::Summary>,
}

/// An image of which a part is still to come.
#[derive(Debug)]
struct Open {
    image: v1::Image,
    data: BytesMut,
}

impl Answer {
    /// Takes the next event; gives the image that it completes.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) where the event cannot come here.
    pub(super) fn take(&mut self, event: Event) -> Result<Option<v1::Image>> {
        match (event, self.open.take()) {
            (Event::Image(image), None) => self.image(image),
            (Event::ImageChunk(chunk), Some(open)) => self.chunk(chunk, open),
            (Event::Summary(summary), None) => {
                self.summary = Some(summary);
                Ok(None)
            }
            (Event::Preview(_), None) => Ok(None),
            (Event::Accepted(_), _) => Err(breach("`accepted` came twice")),
            (Event::ImageChunk(_), None) => Err(breach("`image_chunk` came without an open image")),
            (_, Some(open)) => Err(breach(&format!("image {} was never completed", open.image.index))),
        }
    }

    /// The closing event, once it has come.
    pub(super) fn summary(&self) -> Option<&v1::Summary> {
        self.summary.as_ref()
    }

    fn image(&mut self, mut image: v1::Image) -> Result<Option<v1::Image>> {
        let (has, total) = (image.data.len() as u64, image.total_bytes);
        if has > total || total > MAX_IMAGE_BYTES {
            return Err(breach(&format!("image {} has {has} of {total} bytes", image.index)));
        }
        if has == total {
            return Ok(Some(image));
        }
        let data = BytesMut::from(std::mem::take(&mut image.data));
        self.open = Some(Open { image, data });
        Ok(None)
    }

    fn chunk(&mut self, chunk: v1::ImageChunk, Open { image, mut data }: Open) -> Result<Option<v1::Image>> {
        let fits = chunk.index == image.index
            && chunk.offset == data.len() as u64
            && !chunk.data.is_empty()
            && (data.len() + chunk.data.len()) as u64 <= image.total_bytes;
        if !fits {
            let (index, offset) = (chunk.index, chunk.offset);
            return Err(breach(&format!("a chunk of image {index} at {offset} does not follow what came before")));
        }
        data.extend_from_slice(&chunk.data);
        if (data.len() as u64) < image.total_bytes {
            self.open = Some(Open { image, data });
            return Ok(None);
        }
        Ok(Some(v1::Image { data: Bytes::from(data), ..image }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(index: u32, total_bytes: u64, data: &'static [u8]) -> Event {
        Event::Image(v1::Image { index, total_bytes, data: Bytes::from_static(data), ..Default::default() })
    }

    fn chunk(index: u32, offset: u64, data: &'static [u8]) -> Event {
        Event::ImageChunk(v1::ImageChunk { index, offset, data: Bytes::from_static(data) })
    }

    fn summary() -> Event {
        Event::Summary(v1::Summary::default())
    }

    #[test]
    fn pieces_become_whole_images() {
        let mut answer = Answer::default();
        let events = [head(1, 2, b"ab"), head(0, 5, b"ab"), chunk(0, 2, b"c"), chunk(0, 3, b"de"), summary()];
        let images: Vec<_> = events.into_iter().filter_map(|event| answer.take(event).unwrap()).collect();
        let seen: Vec<_> = images.iter().map(|image| (image.index, &*image.data)).collect();
        assert_eq!(seen, [(1, &b"ab"[..]), (0, &b"abcde"[..])]);
        assert!(answer.summary().is_some());
    }

    #[test]
    fn what_cannot_follow_is_refused() {
        let open = || head(0, 5, b"ab");
        for events in [
            vec![chunk(0, 0, b"a")],
            vec![Event::Accepted(v1::Accepted::default())],
            vec![head(0, 1, b"ab")],
            vec![head(0, u64::MAX, b"ab")],
            vec![open(), summary()],
            vec![open(), head(1, 1, b"a")],
            vec![open(), chunk(1, 2, b"c")],
            vec![open(), chunk(0, 3, b"c")],
            vec![open(), chunk(0, 2, b"")],
            vec![open(), chunk(0, 2, b"cdef")],
        ] {
            let mut answer = Answer::default();
            let told = format!("{events:?}");
            let results: Vec<_> = events.into_iter().map(|event| answer.take(event)).collect();
            assert!(results.last().is_some_and(Result::is_err), "{told}");
        }
    }
}
