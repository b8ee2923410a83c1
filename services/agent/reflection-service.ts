/**
 * grpc.reflection.v1 from the descriptors that the generated code carries: what is served here, and the files that
 * define it, for grpcurl and its like.
 */
import { create, toBinary, type DescFile, type DescService } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, type ServiceImpl } from "@connectrpc/connect";
import {
  type ServerReflection,
  ServerReflectionResponseSchema,
  type ServerReflectionRequest,
  type ServerReflectionResponse,
} from "../gen/grpc/reflection/v1/reflection_pb.js";

type Answer = ServerReflectionResponse["messageResponse"];

/**
 * @param services what `list` shows
 * @param alsoKnown files that no service imports, such as those of error details
 */
export function reflectionService(
  services: readonly DescService[],
  alsoKnown: readonly DescFile[] = [],
): ServiceImpl<typeof ServerReflection> {
  const files = new Map<string, DescFile>();
  for (const file of [...services.map((service) => service.file), ...alsoKnown]) {
    for (const each of withImports(file)) {
      files.set(each.proto.name, each);
    }
  }
  const fileOfSymbol = new Map<string, DescFile>();
  for (const file of files.values()) {
    for (const symbol of symbolsOf(file)) {
      fileOfSymbol.set(symbol, file);
    }
  }

  const answer = ({ messageRequest: question }: ServerReflectionRequest): Answer => {
    switch (question.case) {
      case "listServices":
        return { case: "listServicesResponse", value: listOf(services) };
      case "fileByFilename":
        return describe(files.get(question.value), question.value);
      case "fileContainingSymbol":
        return describe(fileOfSymbol.get(question.value), question.value);
      case "fileContainingExtension":
        return notFound(`extensions of ${question.value.containingType}`); // there are none
      case "allExtensionNumbersOfType":
        return fileOfSymbol.has(question.value)
          ? { case: "allExtensionNumbersResponse", value: emptyExtensions(question.value) }
          : notFound(question.value);
      case undefined:
        return errorAnswer(Code.InvalidArgument, "the request asks nothing");
    }
  };

  return {
    serverReflectionInfo: async function* (requests) {
      for await (const request of requests) {
        yield create(ServerReflectionResponseSchema, {
          validHost: request.host,
          originalRequest: request,
          messageResponse: answer(request),
        });
      }
    },
  };
}

function listOf(services: readonly DescService[]): Extract<Answer, { case: "listServicesResponse" }>["value"] {
  return {
    $typeName: "grpc.reflection.v1.ListServiceResponse",
    service: services.map(({ typeName }) => ({ $typeName: "grpc.reflection.v1.ServiceResponse", name: typeName })),
  };
}

function emptyExtensions(baseTypeName: string): Extract<Answer, { case: "allExtensionNumbersResponse" }>["value"] {
  return { $typeName: "grpc.reflection.v1.ExtensionNumberResponse", baseTypeName, extensionNumber: [] };
}

/** The file with all it imports, so that one answer suffices. */
function describe(file: DescFile | undefined, name: string): Answer {
  if (file === undefined) {
    return notFound(name);
  }
  return {
    case: "fileDescriptorResponse",
    value: {
      $typeName: "grpc.reflection.v1.FileDescriptorResponse",
      fileDescriptorProto: withImports(file).map(({ proto }) => toBinary(FileDescriptorProtoSchema, proto)),
    },
  };
}

function notFound(what: string): Answer {
  return errorAnswer(Code.NotFound, `${what} is not known here`);
}

function errorAnswer(errorCode: number, errorMessage: string): Answer {
  return { case: "errorResponse", value: { $typeName: "grpc.reflection.v1.ErrorResponse", errorCode, errorMessage } };
}

function withImports(file: DescFile, found = new Set<DescFile>()): readonly DescFile[] {
  if (!found.has(file)) {
    found.add(file);
    for (const each of file.dependencies) {
      withImports(each, found);
    }
  }
  return [...found];
}

/** Full names of everything that a file defines, methods and nested types included. */
function* symbolsOf(file: DescFile): Generator<string> {
  for (const service of file.services) {
    yield service.typeName;
    for (const method of service.methods) {
      yield `${service.typeName}.${method.name}`;
    }
  }
  const types: (typeof file.messages)[number][] = [...file.messages];
  for (let type = types.pop(); type !== undefined; type = types.pop()) {
    yield type.typeName;
    yield* type.nestedEnums.map(({ typeName }) => typeName);
    types.push(...type.nestedMessages);
  }
  yield* file.enums.map(({ typeName }) => typeName);
}
