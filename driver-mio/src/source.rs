//! Types that are registered as their inner sources.

/// `delegate_source!(Type, it => place)`: `Type` is registered as the source at `place`, of `it`.
macro_rules! delegate_source {
    ($type:ty, $it:ident => $place:expr) => {
        impl mio::event::Source for $type {
            fn register(
                &mut self,
                registry: &mio::Registry,
                token: mio::Token,
                interests: mio::Interest,
            ) -> std::io::Result<()> {
                let $it = self;
                $place.register(registry, token, interests)
            }

            fn reregister(
                &mut self,
                registry: &mio::Registry,
                token: mio::Token,
                interests: mio::Interest,
            ) -> std::io::Result<()> {
                let $it = self;
                $place.reregister(registry, token, interests)
            }

            fn deregister(&mut self, registry: &mio::Registry) -> std::io::Result<()> {
                let $it = self;
                $place.deregister(registry)
            }
        }
    };
}

pub(crate) use delegate_source;
