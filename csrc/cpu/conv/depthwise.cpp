// Depthwise convolution: one filter a channel, so that nothing is summed over channels and the work is bound by how
// often the tensors are read. Channels-last tensors are read where they lie, vectors along channels; all others go
// through a padded copy of one plane at a time, vectors along its lines.
#include "cpu/conv/depthwise_channels.h"
#include "cpu/conv/depthwise_planes.h"
#include "cpu/conv/strategies.h"

namespace nnart::cpu {

template <>
void ConvStrategies<Isa::NNART_ISA>::depthwise(const ConvArgs& args) {
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    bool channels_last = args.x.channel == 1 && args.y.channel == 1 && args.groups >= Block<S>::channels;
    if (args.pass == ConvPass::Wgrad) {
      if (channels_last)
        DepthwiseChannelsWgrad<S>(args).run();
      else
        DepthwisePlanesWgrad<S>(args).run();
    } else if (channels_last) {
      DepthwiseChannels<S>(args).run();
    } else {
      DepthwisePlanes<S>(args).run();
    }
  });
}

}  // namespace nnart::cpu
