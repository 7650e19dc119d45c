//! Stamps, the hybrid logical clock, region ordinals and version vectors.
